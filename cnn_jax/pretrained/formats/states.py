"""State dicts in the object of a torch file, and the choice between several of them."""

from collections.abc import Mapping
from typing import NamedTuple

from cnn_jax import errors
from cnn_jax.pretrained.formats.rebuild import Tensor

USUAL = ("state_dict", "model")
"""Entries in which most checkpoints keep their state dict; the first is preferred."""


class State(NamedTuple):
    """State dict of a torch file.

    Attributes:
      tensors: name to tensor.
      key: where the checkpoint keeps it, such as 'model'; '' if it is the checkpoint itself.
      others: where the checkpoint keeps further state dicts, such as 'model_ema'.
      left_out: names of entries of the state dict that are no tensors, such as 'epoch'.
    """

    tensors: dict[str, Tensor]
    key: str
    others: tuple[str, ...]
    left_out: tuple[str, ...]


def find(root: object, key: str = "") -> State:
    """Finds the state dict in the unpickled object of a file.

    The state dict is the first of these that exists: the entry 'state_dict', the entry 'model',
    `root` itself, and the only entry with tensors. `root` itself counts if its tensors have names
    of layers, or if none of its entries has tensors.

    Args:
      root: the object.
      key: the entry to take instead of the automatic choice; '' for the automatic choice.

    Raises:
      UserError: there is no state dict, no such entry, or several that could be meant.
    """
    if not isinstance(root, dict):
        raise errors.UserError(f"contains a {type(root).__name__}, not a dictionary of tensors")
    nested = {
        name: value
        for name, value in root.items()
        if isinstance(name, str) and isinstance(value, dict) and _has_weights(value)
    }
    chosen = key or _usual(root, nested)
    if chosen and chosen not in nested:
        raise errors.unknown("entry of the checkpoint with a state dict:", chosen[:99], nested)
    found = nested[chosen] if chosen else root
    tensors = {name: value for name, value in found.items() if _is_entry(name, value)}
    left_out = tuple(
        str(name) for name in found if name not in tensors and (chosen or name not in nested)
    )
    others = tuple(name for name in nested if name != chosen)
    return State(tensors, chosen, others, left_out)


def _usual(root: Mapping[str | int, object], nested: Mapping[str, object]) -> str:
    """Returns the entry of `root` that is its state dict; '' for `root` itself.

    Raises:
      UserError: there is none, or there are several.
    """
    usual = [name for name in USUAL if name in nested]
    if usual:
        return usual[0]
    tensors = {name: value for name, value in root.items() if _is_entry(name, value)}
    if not nested and _has_weights(root):
        return ""
    if any("." in str(name) for name in tensors):  # Not only a state of a random generator.
        return ""
    if len(nested) == 1:
        return next(iter(nested))
    if nested:
        raise errors.UserError(
            f"contains several state dicts: {_listed(nested)}; choose one with state=NAME, or "
            "'#state=NAME' at the end of the path"
        )
    raise errors.UserError(
        "contains no dictionary of tensors, neither directly nor under "
        f"{' or '.join(map(repr, USUAL))}; it has {len(root)} keys: {_listed(root, 10)}"
    )


def _listed(names: Mapping[str, object] | Mapping[str | int, object], most: int = 5) -> str:
    return errors.listed([str(name)[:99] for name in names], most)


def _is_entry(name: object, value: object) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _has_weights(found: Mapping[str | int, object]) -> bool:
    """Returns True if all values are tensors, or one of them is a tensor that is no scalar.

    States of optimizers and schedules have no tensors, or have them one level deeper.
    """
    entries = [value for name, value in found.items() if _is_entry(name, value)]
    whole = len(entries) == len(found) > 0
    return whole or any(isinstance(value, Tensor) and value.shape for value in entries)
