"""How kernels are told what a window is."""

import numpy as np

from cnn_jax.ops.window import Axis


def numbers(axis: Axis) -> np.ndarray:
    """As `axis_of` in `bindings.cc` reads them."""
    fields = axis.size, axis.kernel, axis.stride, axis.dilation, axis.low, axis.high
    return np.array(fields, np.int64)
