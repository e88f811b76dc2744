"""The dtypes of pixels: uint8 from 0 to 255, and float32 from 0 to 1."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cnn_jax import errors

PEAKS: Mapping[str, int] = MappingProxyType({"uint8": 255, "float32": 1})
"""The largest value of a pixel by dtype."""


def peak(dtype: DTypeLike) -> float:
    """Returns the largest value of a pixel of a dtype: 255 for uint8, 1 for float32."""
    return float(PEAKS[np.dtype(dtype).name])


def of_peak(largest: float) -> np.dtype:
    """Returns the dtype of images whose largest pixel value is `largest`."""
    return np.dtype({float(value): name for name, value in PEAKS.items()}[largest])


def as_array(values: Any, place: str) -> np.ndarray:
    """Returns an array, of NumPy or another package, or a list as a NumPy array.

    Args:
      values: an object that `numpy.asarray` accepts.
      place: its name, for the error message.

    Raises:
      UserError: NumPy cannot convert it.
    """
    try:
        return np.asarray(values)
    except Exception as error:  # Arrays of other packages raise errors of many types.
        raise errors.UserError(
            f"{place} cannot be converted to a NumPy array ({error}); give arrays that "
            "numpy.asarray accepts"
        ) from error


def as_pixels(values: Any, place: str) -> np.ndarray:
    """Converts the values of one or several images to uint8 or float32.

    Floating-point values must be finite and in [0, 1]; they become float32. False becomes 0 and
    True 255. Other arrays than those of NumPy are converted if NumPy can read them.

    Args:
      values: uint8, bool or floating point, of any shape.
      place: the name of the images, for the error message.

    Raises:
      UserError: another dtype, or values out of range.
    """
    array = as_array(values, place)
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.name.startswith(("float", "bfloat")):
        _check_floats(array, place)
        return array.astype(np.float32, copy=False)
    raise errors.UserError(
        f"{place} must have dtype uint8 (from 0 to 255), bool or floating point (from 0 to 1), got "
        f"shape {list(array.shape)} and dtype {array.dtype}; convert integers from 0 to 255 by "
        ".astype(numpy.uint8), and divide 16-bit values by 65535"
    )


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Scales uint16 values, or floats in [0, 1], to uint8; returns uint8 values as they are."""
    if values.dtype == np.uint8:
        return values
    most = 65535 if values.dtype == np.uint16 else 1
    # Quotients of these integers are never so close to a half that float32 rounds another way.
    scaled = values * np.float32(255 / most)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def check_same(image: np.ndarray, dtype: np.dtype, place: str) -> None:
    """Checks that an image has the dtype of its data set, so that pixels are not cut off.

    Raises:
      UserError: another dtype.
    """
    if image.dtype != dtype:
        raise errors.UserError(
            f"{place} has dtype {image.dtype}, other images of the set have {dtype}; all images "
            "of a set must have one dtype: uint8, or float32 from 0 to 1"
        )


def _check_floats(array: np.ndarray, place: str) -> None:
    if not array.size:
        return
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # NaN fails too.
        wrong = high if low >= 0 else low
        raise errors.UserError(
            f"{place} has the value {float(wrong):g}; floating-point pixels must be finite and in "
            "[0, 1]: divide values from 0 to 255 by 255, and scale others"
        )
