"""Strict comparison of weights with the names and shapes that a network needs."""

from collections.abc import Callable, Mapping

import numpy as np

from cnn_jax import errors
from cnn_jax.pretrained.network import Shape

# Torch's batch normalisation counts its batches. Flax has no such variable.
# Swin stores the index into its table of position biases, and its masks, which are constants.
IGNORED = ("num_batches_tracked", "relative_position_index", "attn_mask")
"""Endings of the names of entries that may be present without a variable."""

_EXAMPLES = 3
_LONGEST = 99  # letters of a name in a message


def check(
    name: str,
    expected: Mapping[str, Shape],
    weights: Mapping[str, np.ndarray],
    cause: Callable[[], str] = lambda: "",
) -> None:
    """Checks that `weights` have exactly the names and shapes of `expected`.

    Trailing axes of length 1 are ignored, because a dense layer may be stored as a 1x1
    convolution. Counters and constants (`IGNORED`) are allowed as additional entries.

    Args:
      name: the network, for the message.
      expected: name to shape.
      weights: name to array.
      cause: returns the likely cause as a clause, or ''. Called only if the weights do not fit.

    Raises:
      UserError: names are missing or unexpected, or shapes differ. The message has the likely
        cause and up to three examples, and the number of each kind if there are more.
    """
    missing = [
        f"missing: {_short(key)} {shape}" for key, shape in expected.items() if key not in weights
    ]
    unexpected = [
        f"unexpected: {_short(key)} {array.shape}"
        for key, array in weights.items()
        if key not in expected and not key.endswith(IGNORED)
    ]
    misshapen = [
        f"misshapen: {_short(key)} has shape {weights[key].shape}, expected {shape}"
        for key, shape in expected.items()
        if key in weights
        and without_trailing_ones(weights[key].shape) != without_trailing_ones(shape)
    ]
    kinds = (missing, unexpected, misshapen)
    if not any(kinds):
        return
    clauses, problems = [cause()], [problem for kind in kinds for problem in kind]
    if len(problems) > _EXAMPLES:
        counts = (
            f"{len(missing)} entries are missing, {len(unexpected)} are unexpected, and "
            f"{len(misshapen)} have another shape"
        )
        clauses = [counts, *clauses]
        firsts = [kind[0] for kind in kinds if kind]
        others = [problem for problem in problems if problem not in firsts]
        problems = [*firsts, *others][:_EXAMPLES]
    some = "examples: " if len(clauses) > 1 else ""
    clauses.append(some + "; ".join(problems))
    raise errors.UserError(f"the weights do not fit {name}: {'; '.join(filter(None, clauses))}")


def _short(key: str) -> str:
    """Returns a name from a file, printable and cut."""
    return errors.printable(key[:_LONGEST])


def share(
    expected: Mapping[str, Shape], weights: Mapping[str, np.ndarray], *, outputs_first: bool
) -> float:
    """Returns the share of entries that fit, among those that are expected or present.

    The axis of outputs is ignored, so that the number of classes need not be known.

    Args:
      expected: name to shape.
      weights: name to array.
      outputs_first: whether that axis is the first, as in torch's layout, or the last, as in
        Flax's.
    """
    kept = slice(1, None) if outputs_first else slice(None, -1)
    wanted = {(key, without_trailing_ones(shape[kept])) for key, shape in expected.items()}
    present = {
        (key, without_trailing_ones(array.shape[kept]))
        for key, array in weights.items()
        if not key.endswith(IGNORED)
    }
    return len(wanted & present) / max(len(wanted | present), 1)


def without_trailing_ones(shape: Shape) -> Shape:
    """Returns a shape without trailing axes of length 1."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape
