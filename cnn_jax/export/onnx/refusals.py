"""Errors for programs that the ONNX export does not support."""

from cnn_jax import errors
from cnn_jax.runtime.jax_internals import JaxprEqn


def unsupported(equation: JaxprEqn, reason: str) -> errors.UserError:
    """Returns the error for a primitive with parameters that have no rule."""
    shapes = ", ".join(str(variable.aval) for variable in equation.invars)
    return errors.UserError(
        f"the primitive {equation.primitive.name!r} of ({shapes}) has no ONNX rule for {reason}; "
        "export with --format=jax"
    )
