"""A network with the preprocessing that its exported file contains, and the description of both."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

import cnn_jax
from cnn_jax import errors, models, pretrained
from cnn_jax.contracts import Predict, Tree, Variables
from cnn_jax.data import crops, dtypes, pixels
from cnn_jax.predictor import Predictor
from cnn_jax.predictor.opening import EvalPreprocessing

PIXELS = tuple(dtypes.PEAKS)
_FITTED = "the whole image, scaled to cover the size, and its centre cropped"
_PADDED = "the whole image, centred on zeros, without scaling"


@dataclasses.dataclass(frozen=True)
class Traced:
    """A network that takes pixels.

    Attributes:
      predict: the network in evaluation mode.
      variables: parameters and running statistics.
      shape: height, width and channels of the pixels.
      dtype: of the pixels: 'uint8' from 0 to 255, or 'float32' from 0 to 1.
      mean: of each channel, of pixels in [0, 1].
      std: standard deviation of each channel, likewise.
    """

    predict: Predict
    variables: Variables
    shape: tuple[int, int, int]
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def call(self, variables: Tree, images: jax.Array) -> jax.Array:
        """Returns the logits `[B, K]` float32 of pixels `[B, H, W, C]` of the dtype `dtype`."""
        inputs = pixels.normalise(images, self.mean, self.std, dtypes.peak(self.dtype))
        logits = self.predict(variables, {"image": inputs})["logits"]
        return logits.astype(jnp.float32)


def of_predictor(network: Predictor, dtype: str = "uint8") -> Traced:
    """Returns the network of a predictor, which normalises its pixels itself.

    Args:
      network: of a run or of published weights.
      dtype: of the pixels, one of `PIXELS`.

    Raises:
      UserError: the dtype is unknown, or the preprocessing is not one of cnn_jax.
    """
    if dtype not in PIXELS:
        raise errors.unknown("dtype of pixels", dtype, PIXELS)
    prepare = _known(network)
    return Traced(
        network.predict, network.variables, network.input_shape, dtype, prepare.mean, prepare.std
    )


def check_logits(shape: tuple[Any, ...], batch: Any) -> None:
    """Checks that there is one row of logits for each image.

    Args:
      shape: of the logits, with symbolic sizes.
      batch: the symbolic batch size.

    Raises:
      UserError: the shape is not `[batch, classes]`.
    """
    if len(shape) != 2 or shape[0] != batch:
        sizes = ", ".join(map(str, shape))
        raise errors.UserError(
            f"the network returns logits [{sizes}] for a batch of the size {batch}; an exported "
            "network returns one row of logits for each image"
        )


def describe(network: Predictor, traced: Traced, form: str) -> dict[str, Any]:
    """Returns the description that stands beside an exported file, as values for JSON.

    Args:
      network: the predictor.
      traced: its network.
      form: the format of the file.
    """
    return {
        "format": form,
        "cnn_jax": cnn_jax.__version__,
        "jax": jax.__version__,
        "network": name(network),
        "computation": "float32" if form == "onnx" else computation(network),
        "input": {
            "name": "pixels",
            "shape": ["batch", *traced.shape],
            "axes": "batch, height, width, channel",
            "dtype": traced.dtype,
            "range": [0, int(dtypes.peak(traced.dtype))],
        },
        "output": {
            "name": "logits",
            "shape": ["batch", len(network.class_names)],
            "dtype": "float32",
        },
        "preprocessing": {
            "outside": resizing(network),
            "inside": {
                "formula": "(pixels / range[1] - mean) / std",
                "mean": list(traced.mean),
                "std": list(traced.std),
            },
        },
        "class_names": list(network.class_names),
    }


def name(network: Predictor) -> str:
    """Returns the name of a network, or that of its class if `models.create` did not build it."""
    if network.model is None:
        return "unknown"
    try:
        return models.name_of(network.model)
    except errors.UserError:
        return type(network.model).__name__


def computation(network: Predictor) -> str:
    """Returns the dtype in which a network computes; 'unknown' for one without a field `dtype`."""
    dtype = getattr(network.model, "dtype", None)
    return "unknown" if dtype is None else str(jnp.dtype(dtype))


def resizing(network: Predictor) -> Mapping[str, Any]:
    """Returns the steps from an image of any size to the input, as values for JSON.

    Raises:
      UserError: the preprocessing is not one of cnn_jax.
    """
    prepare = _known(network)
    height, width, channels = network.input_shape
    size = {"height": height, "width": width, "channels": channels}
    if isinstance(prepare, pretrained.Preprocessing):
        how = "both sides" if prepare.squash else "shorter side"
        return {
            "crop": "centre",
            f"{how} first": prepare.resize_size,
            "interpolation": prepare.interpolation,
            **size,
        }
    crop = prepare.crop
    if isinstance(crop, crops.Centre):
        return {
            "crop": "centre",
            "shorter side first": crop.shorter_side,
            "interpolation": crop.interpolation,
            **size,
        }
    native = {"height, width first": list(crop.native_size)} if crop.native_size else {}
    is_padded = crop.resize == "pad"
    return {
        **native,
        "crop": _PADDED if is_padded else _FITTED,
        "interpolation": "bilinear" if is_padded else crop.resize,
        **size,
    }


def notes(network: Predictor) -> tuple[str, ...]:
    """Returns sentences on preprocessing of a run that its exported network does not do.

    There is one if the run scales or pads its stored images to an input of another size.
    """
    given = network.preprocessing
    if not isinstance(given, EvalPreprocessing) or not isinstance(given.crop, crops.Fit):
        return ()
    crop, sizes = given.crop, network.input_shape[:2]
    if crop.native_size in (None, sizes):
        return ()
    stored, size = (f"{height} x {width}" for height, width in (crop.native_size, sizes))
    if crop.resize == "pad":
        return (
            f"the run pads its images of {stored} pixels to {size}; the exported network does "
            "not, and readers of config.json scale images: give them padded images",
        )
    return (
        f"the run scales every image to {stored} pixels, the size of its stored images, and then "
        f"to {size}; the exported network and readers of config.json leave out the first step: "
        f"give them images that are scaled to {stored} and then to {size} ({crop.resize}), as "
        "network.undo(network.preprocess(images)) does with network=predictor.load(WORKDIR)",
    )


def _known(network: Predictor) -> EvalPreprocessing | pretrained.Preprocessing:
    prepare = network.preprocessing
    if not isinstance(prepare, (EvalPreprocessing, pretrained.Preprocessing)):
        raise errors.UserError(
            f"the predictor's preprocessing is {type(prepare).__name__}, whose mean and standard "
            "deviation are not known; replace it by pretrained.Preprocessing with "
            "dataclasses.replace(predictor, preprocessing=...)"
        )
    return prepare
