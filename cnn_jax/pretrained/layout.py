"""How torch lays out the arrays that we keep in Flax's way."""

import numpy as np


def from_torch(array: np.ndarray, channels: int | None = None) -> np.ndarray:
    """An array of a state dict in our layout: the inverse of `to_torch`.

    Args:
      array: a convolution `[O, I, kh, kw]`, a dense layer `[O, I]`, or any vector.
      channels: of the image that was flattened to be a dense layer's input.
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim != 2:
        return array
    if channels is None:
        return array.T
    outputs, inputs = array.shape
    size = round((inputs // channels) ** 0.5)
    return array.reshape(outputs, channels, size, size).transpose(2, 3, 1, 0).reshape(-1, outputs)


def to_torch(array: np.ndarray, channels: int | None = None) -> np.ndarray:
    """A convolution `[kh, kw, I, O]`, a dense layer `[I, O]` or a vector in torch's layout."""
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim != 2:
        return array
    if channels is None:
        return array.T
    inputs, outputs = array.shape
    size = round((inputs // channels) ** 0.5)
    return array.reshape(size, size, channels, outputs).transpose(3, 2, 0, 1).reshape(outputs, -1)


def shape_in_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of our array there."""
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return shape[::-1] if len(shape) == 2 else shape
