"""Pure functions on arrays that the networks are built from."""

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
