"""Inputs of a network for several views of one picture, made on the host by NumPy and Pillow.

`views.py` describes the views. This file has the contract of a description (`Views`), and cuts
views out of a picture with the resize and the normalisation of a predictor.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np

from cnn_jax import errors
from cnn_jax.data import crops, dtypes, images, pixels
from cnn_jax.data.crops import Size
from cnn_jax.predictor import Predictor
from cnn_jax.predictor.opening import EvalPreprocessing

_WHOLE: Size = (1, 1)  # A crop that any picture has room for.

Parts = tuple[np.ndarray, ...]
"""The inputs of all views of one picture: `[V, H, W, C]` float32 for each size of the inputs."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """The views of a predictor's pictures.

    Attributes:
      count: the number of views.
      shape: `(V, H, W, C)`, if the inputs of every picture are one array of this shape; None if
        their sizes depend on the picture.
      make: returns the inputs of a picture `[h, w, C]`, uint8 or float32 in [0, 1].
    """

    count: int
    shape: tuple[int, int, int, int] | None
    make: Callable[[np.ndarray], Parts]


class Views(Protocol):
    """Description of the views of a picture, without a predictor."""

    @property
    def mean(self) -> str:
        """The outputs that are averaged over the views: 'probabilities' or 'logits'."""
        ...

    def bind(self, predictor: Predictor) -> Bound:
        """Returns the views of a predictor's pictures.

        Raises:
          UserError: the views do not fit the network or the preprocessing of the predictor.
        """
        ...


@runtime_checkable
class Resized(Protocol):
    """Preprocessing that states its resize and its moments, as `pretrained.Preprocessing` does."""

    resize_size: int
    interpolation: str
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Scaling:
    """Resize and normalisation of a predictor, without its crop.

    Attributes:
      size: height and width of the network's input in pixels.
      shorter_side: in pixels, to which the predictor resizes pictures before its crop; 0 for a
        predictor that shows the whole picture.
      interpolation: one of `images.INTERPOLATIONS`.
      squash: whether both sides are resized to `shorter_side`, without keeping the aspect ratio.
      mean: of each channel, of pixels in [0, 1].
      std: standard deviation of each channel, likewise.
    """

    size: Size
    shorter_side: int
    interpolation: str
    squash: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def for_crops(self, image: np.ndarray, shorter_side: int) -> np.ndarray:
        """Returns a picture `[h, w, C]`, scaled for crops of `size`; see `crops.covering_size`."""
        return self._scaled(image, self.size, shorter_side)

    def whole(self, image: np.ndarray, shorter_side: int, step: int) -> np.ndarray:
        """Returns a scaled picture whose longer side is cut to one of few lengths.

        Args:
          image: `[h, w, C]`, uint8 or float32.
          shorter_side: of the result in pixels.
          step: the longer side is cut, at both ends, to `shorter_side` plus a multiple of `step`.

        Returns:
          `[h', w', C]` of the dtype of `image`.
        """
        scaled = self._scaled(image, _WHOLE, shorter_side)
        height, width = (length - (length - shorter_side) % step for length in scaled.shape[:2])
        return images.crop_centre(scaled, (height, width))

    def normalise(self, image: np.ndarray) -> np.ndarray:
        """Returns pictures `[..., C]`, uint8 or float32 in [0, 1], as inputs, float32."""
        return pixels.normalise(image, self.mean, self.std, dtypes.peak(image.dtype))

    @property
    def black(self) -> np.ndarray:
        """A black pixel of the input, `[C]` float32."""
        return self.normalise(np.zeros(len(self.mean), np.uint8))

    def _scaled(self, image: np.ndarray, size: Size, shorter_side: int) -> np.ndarray:
        if self.squash:
            return images.stretch(image, (shorter_side, shorter_side), self.interpolation)
        return crops.scale_to_cover(image, size, shorter_side, self.interpolation)


def scaling(predictor: Predictor) -> Scaling:
    """Returns the resize and the normalisation of a predictor.

    Args:
      predictor: of a run or of published weights, or with a preprocessing of the user that has the
        attributes of `pretrained.Preprocessing`.

    Raises:
      UserError: the preprocessing states no resize.
    """
    given = predictor.preprocessing
    size = predictor.input_shape[:2]
    if isinstance(given, Resized):
        resize = given.resize_size, given.interpolation, given.squash
        return Scaling(size, *resize, tuple(given.mean), tuple(given.std))
    if isinstance(given, EvalPreprocessing):
        crop = given.crop
        if isinstance(crop, crops.Centre):
            resize = crop.shorter_side, crop.interpolation, False
        else:  # 'pad' scales bilinearly, as `images.to_input` does.
            resize = 0, "bilinear" if crop.resize == "pad" else crop.resize, False
        return Scaling(size, *resize, given.mean, given.std)
    raise errors.UserError(
        f"views need the resize of the predictor, but its preprocessing, a {type(given).__name__}, "
        "does not state it; add the attributes resize_size, interpolation, squash, mean and std, "
        "or take views.mirrored()"
    )


def ten_crops(image: np.ndarray, size: Size) -> np.ndarray:
    """Returns the four corners and the centre of a picture, then those of its mirror image.

    The order is that of torchvision's `TenCrop`: top left, top right, bottom left, bottom right,
    centre. Where the margin is odd, the centre of the mirror image is not the mirror image of the
    centre.

    Args:
      image: `[h, w, C]`, at least as large as `size`.
      size: height and width of the crops in pixels.

    Returns:
      `[10, *size, C]` of the dtype of `image`.
    """
    return np.stack([crop for each in (image, image[:, ::-1]) for crop in _five(each, size)])


def _five(image: np.ndarray, size: Size) -> list[np.ndarray]:
    bottom, right = image.shape[0] - size[0], image.shape[1] - size[1]
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    boxes = [crops.Box(top, left, *size) for top, left in corners]
    return [*(box.cut(image) for box in boxes), images.crop_centre(image, size)]


def padded(image: np.ndarray, padding: int, value: np.ndarray) -> np.ndarray:
    """Returns a picture `[h, w, C]` with `padding` pixels of a colour `[C]` on each side."""
    height, width, channels = image.shape
    shape = height + 2 * padding, width + 2 * padding, channels
    canvas = np.broadcast_to(value.astype(image.dtype), shape).copy()
    canvas[padding : padding + height, padding : padding + width] = image
    return canvas


def with_mirrored(image: np.ndarray) -> np.ndarray:
    """Returns a picture `[h, w, C]` and its mirror image, `[2, h, w, C]`."""
    return np.stack([image, image[:, ::-1]])
