"""Preprocessing that belongs to the weights of `keras.applications`."""

import re
from collections.abc import Mapping

import numpy as np

from cnn_jax import errors, models
from cnn_jax.data import crops, imagenet
from cnn_jax.pretrained.keras.applications import APPLICATIONS
from cnn_jax.pretrained.preprocessing import HALF, Preprocessing, class_names

Floats = tuple[float, ...]

# The layer that normalises images. With weights='imagenet', its variance is the deviation, and a
# further layer divides by the root of that (tensorflow/tensorflow#49930, keras' efficientnet.py).
_LAYER = re.compile(r"normalization(?:_\d+)?/(mean|variance)")
# Of Caffe's VGG, in RGB, as in keras.applications.imagenet_utils of Keras 3.15.1, which has BGR.
_CAFFE_MEAN = (123.68 / 255, 116.779 / 255, 103.939 / 255)
_MEAN_AND_STD = {
    "caffe": (_CAFFE_MEAN, (1 / 255,) * 3),
    "tf": (HALF, HALF),
    "torch": (imagenet.MEAN, imagenet.STD),
}


def keras_preprocessing(
    name: str,
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    num_classes: int = 1000,
    input_shape: tuple[int, int, int] | None = None,
) -> Preprocessing:
    """Returns the preprocessing for variables of `from_keras`.

    Mean and standard deviation combine `preprocess_input` of the application with the normalisation
    in its first layers, for `weights="imagenet"`. Images are RGB for all networks. For VGG and
    ResNet, Keras subtracts means of BGR images in [0, 255]. `from_keras` turns the first kernels of
    these networks to RGB. The standard deviation of 1/255 scales pixels from [0, 1] to [0, 255].

    Keras publishes no resizing. It is the usual one: a crop of 0.875 of the shorter side, bilinear.

    Args:
      name: a network in `KERAS`.
      weights: path to array, as for `from_keras`. Needed for an EfficientNet that was not trained
        on ImageNet, whose first layer has mean and variance of its own.
      num_classes: of the application.
      input_shape: `(height, width, 3)` of the images. By default the shape for which the network
        was published.

    Raises:
      UserError: the network is unknown or Keras has no such application, or the images do not have
        3 channels.
    """
    models.options(name)  # Raises for an unknown network.
    if name not in APPLICATIONS:
        raise errors.unknown("network with an application in Keras", name, sorted(APPLICATIONS))
    height, width, channels = input_shape or models.input_shape(name)
    if channels != len(imagenet.MEAN):
        raise errors.UserError(
            f"Keras preprocesses images of 3 channels, got {channels}; give mean and std to "
            "pretrained.Preprocessing"
        )
    mean, std = _normalisation(weights or {}) or _MEAN_AND_STD[APPLICATIONS[name].mode]
    return Preprocessing(
        image_size=height,
        resize_size=round(min(height, width) / crops.CROP_SHARE),
        class_names=class_names(num_classes),
        mean=mean,
        std=std,
        image_width=0 if width == height else width,
    )


def _normalisation(weights: Mapping[str, np.ndarray]) -> tuple[Floats, Floats] | None:
    """Returns mean and deviation of a first layer that normalises pixels in [0, 1].

    Returns None if there is none, or if it has the values of ImageNet.
    """
    found = {
        match[1]: np.ravel(array).astype(float).tolist()
        for key, array in weights.items()
        if (match := _LAYER.fullmatch(key))
    }
    if len(found) < 2 or np.allclose(found["variance"], imagenet.STD, atol=1e-4):
        return None
    return tuple(found["mean"]), tuple(np.sqrt(found["variance"]).tolist())
