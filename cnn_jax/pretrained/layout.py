"""Array layouts: conversion between torch's and Flax's order of axes."""

import numpy as np


def from_torch(array: np.ndarray, channels: int | None = None) -> np.ndarray:
    """Converts an array of a state dict to Flax's layout: the inverse of `to_torch`.

    Args:
      array: a convolution kernel `[O, I, kh, kw]`, a dense kernel `[O, I]`, or a vector. Arrays of
        other ranks are returned unchanged.
      channels: for a dense kernel whose input is a flattened image, the number of channels
        of that image. Torch flattens `[C, H, W]`, Flax `[H, W, C]`.

    Returns:
      `[kh, kw, I, O]`, `[I, O]`, or the array itself.
    """
    if array.ndim == 4:
        return array.transpose(2, 3, 1, 0)
    if array.ndim != 2:
        return array
    if channels is None:
        return array.T
    outputs, inputs = array.shape
    return array.reshape(outputs, channels, -1).transpose(2, 1, 0).reshape(inputs, outputs)


def to_torch(array: np.ndarray, channels: int | None = None) -> np.ndarray:
    """Converts an array of Flax to torch's layout: the inverse of `from_torch`.

    Args:
      array: a convolution kernel `[kh, kw, I, O]`, a dense kernel `[I, O]`, or a vector.
      channels: as in `from_torch`.

    Returns:
      `[O, I, kh, kw]`, `[O, I]`, or the array itself.
    """
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    if array.ndim != 2:
        return array
    if channels is None:
        return array.T
    inputs, outputs = array.shape
    return array.reshape(-1, channels, outputs).transpose(2, 1, 0).reshape(outputs, inputs)


def shape_in_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape that `to_torch` gives an array of shape `shape`."""
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return (outputs, inputs, height, width)
    return shape[::-1] if len(shape) == 2 else shape


def owned(array: np.ndarray) -> np.ndarray:
    """Returns a copy in C order that owns its data.

    Writers of files, such as safetensors, take the bytes of an array in the order of its memory.
    A transposed view would be written in the wrong order.
    """
    return np.array(array, order="C", copy=True)
