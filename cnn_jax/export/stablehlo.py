"""Export of a network to StableHLO by `jax.export`."""

from collections.abc import Sequence

import jax

from cnn_jax import errors
from cnn_jax.export import optional
from cnn_jax.export.traced import Traced, check_logits

PLATFORMS = ("cpu", "cuda", "tpu")
GUARANTEE = "https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees"
MONTHS_BACKWARD = 6
WEEKS_FORWARD = 3


def serialize(traced: Traced, platforms: Sequence[str] = PLATFORMS) -> bytes:
    """Returns the bytes that `jax.export.deserialize` reads, for any batch size.

    The weights are constants of the program. It has no native kernels: `ops.primitive` leaves them
    out of exported programs.

    Args:
      traced: the network with its preprocessing.
      platforms: those that the program runs on, as in `jax.export.export`.

    Raises:
      UserError: the network cannot be lowered for the platforms, there is not one row of logits
        for each image, or flatbuffers is not installed.
    """
    optional.load("jax")
    (batch,) = jax.export.symbolic_shape("batch")
    variables = jax.device_get(dict(traced.variables))

    @jax.jit
    def logits(pixels: jax.Array) -> jax.Array:
        return traced.call(variables, pixels)

    images = jax.ShapeDtypeStruct((batch, *traced.shape), traced.dtype)
    try:
        exported = jax.export.export(logits, platforms=platforms)(images)
    except errors.UserError:
        raise
    except Exception as error:  # of any layer or lowering
        reason = errors.first_line(error)
        raise errors.UserError(
            f"jax.export cannot export the network for {', '.join(platforms)}: {reason}; choose "
            "other platforms (--platforms), or change the network"
        ) from error
    check_logits(exported.out_avals[0].shape, batch)
    return bytes(exported.serialize())


def window() -> str:
    """Returns a sentence on the releases of JAX that read a file which is written now."""
    return (
        f"written by JAX {jax.__version__}; JAX guarantees that releases up to {MONTHS_BACKWARD} "
        f"months newer and up to {WEEKS_FORWARD} weeks older than {jax.__version__} read the file: "
        f"{GUARANTEE}"
    )
