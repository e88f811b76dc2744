"""Corruptions of ImageNet-C: common changes of images, at five severities.

    corrupted = corruptions.corrupt(image, "fog", 3, corruptions.generator(seed, number, "fog"))

Hendrycks & Dietterich 2019, 'Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations', arXiv:1903.12261. Formulas and parameters are those of the code that made
CIFAR-10-C, Tiny ImageNet-C and ImageNet-C (github.com/hendrycks/robustness, commit 8190fe32). The
shorter side of an image decides between the three (`severities.size_of`). Height and width of an
image need not be equal.

- `noise.py`, `blur.py`, `weather.py`, `digital.py`: the corruptions
- `severities.py`: parameters by size and severity
- `filters.py`, `fractal.py`, `colours.py`: blurs, resampling, height maps, HSV

The published severities are not always ordered by the size of the change: elastic_transform,
glass_blur, frost and saturate change some images less at a higher severity.

Departures from the published sets:

- Random numbers are those of NumPy's `Generator`, so single images differ.
- Motion blur, also that of snow, is a function of NumPy in place of ImageMagick, as in the package
  imagecorruptions. Values are rounded to bytes, as by ImageMagick.
- Frost is drawn, unless photographs are given: the licence of the published photographs is not
  known. Errors on drawn frost are not those on ImageNet-C's frost.
- Results are not stored as JPEG files of quality 85, as in ImageNet-C and Tiny ImageNet-C.
- The extra corruption spatter is left out: it needs edge detection and distance transforms.
- Images of one channel stay grey. Noise, blur and digital corruptions apply to the channel; colours
  of snow, frost and fog become grey, and saturate changes nothing.
"""

import operator
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from cnn_jax import errors
from cnn_jax.evaluators.corruptions import blur, digital, noise, weather
from cnn_jax.evaluators.corruptions.severities import SEVERITIES
from cnn_jax.runtime import seeds

__all__ = [
    "CHANNELS",
    "EXTRA",
    "NAMES",
    "SEVERITIES",
    "TABLE",
    "Corruption",
    "check",
    "check_photographs",
    "corrupt",
    "generator",
]

Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]
"""`(image, severity, rng) -> image`: `[h, w, C]` uint8 both, C is 1 or 3, severity from 1 to 5."""

TABLE: Mapping[str, Corruption] = MappingProxyType(
    {
        "gaussian_noise": noise.gaussian_noise,
        "shot_noise": noise.shot_noise,
        "impulse_noise": noise.impulse_noise,
        "defocus_blur": blur.defocus_blur,
        "glass_blur": blur.glass_blur,
        "motion_blur": blur.motion_blur,
        "zoom_blur": blur.zoom_blur,
        "snow": weather.snow,
        "frost": weather.frost,
        "fog": weather.fog,
        "brightness": weather.brightness,
        "contrast": digital.contrast,
        "elastic_transform": digital.elastic_transform,
        "pixelate": digital.pixelate,
        "jpeg_compression": digital.jpeg_compression,
        "speckle_noise": noise.speckle_noise,
        "gaussian_blur": blur.gaussian_blur,
        "saturate": digital.saturate,
    }
)
"""All corruptions by name: the 15 of ImageNet-C in its order, then the extra ones."""

NAMES = tuple(TABLE)[:15]
"""The 15 corruptions of ImageNet-C, over which the mean corruption error is defined."""

EXTRA = tuple(TABLE)[15:]
"""Corruptions that were published for choosing hyperparameters."""

CHANNELS = (1, 3)
"""The numbers of channels that an image may have."""


def corrupt(
    image: np.ndarray,
    name: str,
    severity: int,
    rng: np.random.Generator,
    *,
    photographs: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Returns a corrupted copy of an image.

    Args:
      image: `[h, w, C]` uint8, of one or three channels.
      name: one of `TABLE`.
      severity: from 1 to 5.
      rng: the source of random numbers; see `generator`.
      photographs: of frost, `[h, w, 3]` uint8 each; by default, frost is drawn.

    Returns:
      `[h, w, C]` uint8.

    Raises:
      UserError: an unknown name or severity, or an image of another dtype or shape.
    """
    severity = check(name, severity)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in CHANNELS:
        raise errors.UserError(
            f"corruptions need an image [height, width, channels] of uint8 with "
            f"{' or '.join(map(str, CHANNELS))} channels, got shape {list(image.shape)} and dtype "
            f"{image.dtype}; convert it first"
        )
    if name == "frost":
        return weather.frost(image, severity, rng, check_photographs(photographs))
    return TABLE[name](image, severity, rng)


def generator(seed: int, index: int, name: str) -> np.random.Generator:
    """Returns the source of random numbers for one image and one corruption.

    It does not depend on the severity, so that a stronger corruption has the same noise. NumPy may
    change the random numbers of its distributions from one version to the next.

    Args:
      seed: from 0 to 2**64 - 1.
      index: the number of the image in its split.
      name: the corruption.
    """
    words = (*seeds.words(seeds.check(seed)), *seeds.words(index), zlib.crc32(name.encode()))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))


def check(name: str, severity: int) -> int:
    """Checks a corruption, and returns the severity as an int.

    Raises:
      UserError: an unknown name, or a severity that is no integer from 1 to 5.
    """
    if name not in TABLE:
        raise errors.unknown("corruption", name, TABLE)
    try:
        number = operator.index(severity)
    except TypeError:
        number = 0
    if number not in SEVERITIES or isinstance(severity, bool):
        raise errors.UserError(
            f"the severity of a corruption must be an integer from 1 to 5, got {severity!r}; 1 is "
            "the weakest"
        )
    return number


def check_photographs(photographs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Returns photographs of frost, checked.

    Raises:
      UserError: one of them is no array `[h, w, 3]` of uint8.
    """
    for number, photograph in enumerate(photographs):
        shape = list(np.shape(photograph))
        dtype = getattr(photograph, "dtype", type(photograph).__name__)
        if len(shape) != 3 or shape[-1] != 3 or min(shape) < 1 or dtype != np.uint8:
            raise errors.UserError(
                f"photograph {number} of frost must be an array [height, width, 3] of uint8, got "
                f"shape {shape} and {dtype}; numpy.asarray(PIL.Image.open(path).convert('RGB')) "
                "reads one"
            )
    return photographs
