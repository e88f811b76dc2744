"""Encoding of the geometry of an axis for the native kernels."""

import numpy as np

from cnn_jax.ops.window import Axis


def numbers(axis: Axis) -> np.ndarray:
    """Returns the fields of `axis` in the order in which `axis_of` in `bindings.cc` reads them."""
    fields = axis.size, axis.kernel, axis.stride, axis.dilation, axis.low, axis.high
    return np.array(fields, np.int64)
