"""Array operations that the networks are built from: convolution, pooling and normalisation.

This package exports pure functions. Most of them take images as `[B, H, W, C]`.

- `conv.py`: convolution with the signature of `jax.lax.conv_general_dilated`.
- `pool.py`: maximum and average pooling over windows, all pixels or channels.
- `channels.py`: batch normalisation and the moments of channels.
- `normalize.py`: local response normalisation.
- `stochastic.py`: operations that take a PRNG key: stochastic pooling and DropConnect.
- `window.py`: stride, padding and dilation of a window, known when a function is traced.
- `primitive.py`: definition of JAX primitives with their own CPU lowering.
- `rules.py`: batching, differentiation and Taylor rules of these primitives.
- `cpu/`: lowerings to XLA operations that are fast on a CPU.
- `native/`: C++ kernels for CPUs, called through `jax.ffi`.

Convolution, pooling and batch normalisation are JAX primitives. On a CPU they lower to the kernels
in `native`, or to `cpu` where no kernel applies. On other platforms they lower to `jax.lax`.
"""

from cnn_jax.ops.channels import batch_normalize, materialize, moments, scale_and_shift
from cnn_jax.ops.conv import conv_general_dilated
from cnn_jax.ops.normalize import local_response_norm
from cnn_jax.ops.pool import (
    avg_pool,
    channel_avg_pool,
    channel_max_pool,
    global_avg_pool,
    max_pool,
)
from cnn_jax.ops.primitive import lowering
from cnn_jax.ops.stochastic import drop_connect, stochastic_pool
from cnn_jax.ops.window import Padding, paddings

__all__ = [
    "Padding",
    "avg_pool",
    "batch_normalize",
    "channel_avg_pool",
    "channel_max_pool",
    "conv_general_dilated",
    "drop_connect",
    "global_avg_pool",
    "local_response_norm",
    "lowering",
    "materialize",
    "max_pool",
    "moments",
    "paddings",
    "scale_and_shift",
    "stochastic_pool",
]
