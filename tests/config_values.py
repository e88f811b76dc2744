"""Config keys, a config with values of every type, and the messages of `plan.read`."""

from typing import Any

import pytest

from cnn_jax import errors, plan

KEYS = plan.keys()
# A value of every type, and options of the network: a tuple, a dictionary and None.
CHANGES: dict[str, Any] = {
    "seed": 7,
    "model": {
        "name": "mlp",
        "widths": (8, 4),
        "head": {"norm": True, "sizes": (1, 2)},
        "rate": None,
    },
    "optim": {
        "nesterov": True,
        "schedule": {"name": "step", "boundary_epochs": (1.5, 2.0)},
    },
    "train": {"epochs": 2.5},
}


def with_value(path: str, value: Any) -> dict[str, Any]:
    """Returns the nested dictionaries of one key."""
    first, _, rest = path.partition(".")
    return {first: with_value(rest, value) if rest else value}


def message_of(given: Any) -> str:
    """Returns the message of the UserError that `plan.read` raises."""
    with pytest.raises(errors.UserError) as caught:
        plan.read(given)
    return str(caught.value)
