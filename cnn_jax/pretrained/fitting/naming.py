"""Names in a state dict that differ from the network's by a prefix, a wrapper or a counter.

Wrappers of a network put their own name before its names: 'module.' (DataParallel, averages of
`torch.optim.swa_utils`), '_orig_mod.' (torch.compile), 'model.' (Lightning), 'backbone.'
(OpenMMLab), and chains of these.
"""

import collections
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from cnn_jax import errors
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.network import Network

# Wrappers of inner layers, whose names no network has: torch.compile, FSDP and checkpointing.
_WRAPPER = re.compile(
    r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
_DEEPEST = 8  # dots in a prefix
_MOST_PREFIXES = 20  # that are tried for a message


class Renamed(NamedTuple):
    """State dict with the network's names.

    Attributes:
      state_dict: name to array.
      notes: a sentence for each change.
    """

    state_dict: dict[str, np.ndarray]
    notes: tuple[str, ...]


def rename(network: Network, state_dict: Mapping[str, np.ndarray], prefix: str = "") -> Renamed:
    """Removes what wrappers added to the names of a state dict.

    A prefix of all names is removed only if more names then match the network, and so are wrappers
    of inner layers. Scalars that belong to no layer, such as 'epoch' and 'n_averaged', are left
    out.

    Args:
      network: the network.
      state_dict: name to array.
      prefix: the prefix to remove, with or without its last dot; names without it are left out.
        '' for the automatic choice.

    Raises:
      UserError: no name has the prefix, or two names become equal when wrappers are removed.
    """
    expected = _expected(network)
    counters = [name for name, array in state_dict.items() if _is_counter(name, array, expected)]
    weights = dict(state_dict)
    for name in counters:
        del weights[name]
    if prefix:
        found, note = _with_prefix(weights, prefix)
    else:
        found, note = _without_wrappers(weights, expected)
    left_out = f"left out entries that are no weights: {_listed(counters)}" if counters else ""
    return Renamed(found, tuple(filter(None, (note, left_out))))


def hint(network: Network, state_dict: Mapping[str, np.ndarray]) -> str:
    """Returns a clause that suggests prefixes whose removal gives the network's names.

    Returns '' if no prefix needs to be removed, or if the removal of none gives such names.

    Args:
      network: the network.
      state_dict: name to array.
    """
    expected = _expected(network)
    if _matches(state_dict, expected):
        return ""
    heads = collections.Counter(prefix for name in state_dict for prefix in _prefixes(name))
    counts = {
        prefix: _matches(_below(state_dict, prefix), expected)
        for prefix, _ in heads.most_common(_MOST_PREFIXES)
    }
    most = max(counts.values(), default=0)
    best = [prefix for prefix, count in counts.items() if count == most]
    if not most:
        return ""
    first, found = best[0][:99], " or ".join(repr(prefix[:99]) for prefix in best[:3])
    return (
        f"{most} names fit below {found}; pass prefix={first!r} to pretrained.load, or put "
        f"'#prefix={first}' at the end of the path"
    )


def _expected(network: Network) -> list[frozenset[str]]:
    """Returns the names of the network's variables in each of its tables."""
    paths = network.shapes(1)
    return [
        frozenset(table.name(path) for path in paths) for table in tables.for_file(network.name)
    ]


def _matches(names: Iterable[str], expected: list[frozenset[str]]) -> int:
    """Returns how many of the names are in the table that has most of them."""
    given = set(names)
    return max(len(given & table) for table in expected)


def _is_counter(name: str, array: np.ndarray, expected: list[frozenset[str]]) -> bool:
    return not array.shape and "." not in name and all(name not in table for table in expected)


def _with_prefix(
    state_dict: Mapping[str, np.ndarray], prefix: str
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the entries below a prefix, without it, and a sentence about the others."""
    prefix = prefix.removesuffix(".") + "."
    found = _below(state_dict, prefix)
    if not found:
        raise errors.UserError(
            f"no name begins with the prefix {prefix[:99]!r}; names: {_listed(state_dict)}"
        )
    others = [name for name in state_dict if not name.startswith(prefix)]
    if not others:
        return found, ""
    return found, (
        f"left out {len(others)} of {len(state_dict)} names, which do not begin with "
        f"{prefix[:99]!r}: {_listed(others)}"
    )


def _without_wrappers(
    state_dict: dict[str, np.ndarray], expected: list[frozenset[str]]
) -> tuple[dict[str, np.ndarray], str]:
    """Returns the entries under the names that fit best, and a sentence about the change."""
    exact = _matches(state_dict, expected)
    prefixes = ("", *_common_prefixes(state_dict))
    fitting = [(_matches(_below(state_dict, prefix), expected), prefix) for prefix in prefixes]
    most, prefix = max(fitting, key=lambda pair: pair[0])
    if most <= exact:
        return state_dict, ""
    inner = {part for name in state_dict for part in _WRAPPER.findall(name[len(prefix) :])}
    removed = _listed([text for text in (prefix, *sorted(inner)) if text])
    return _below(state_dict, prefix), f"removed {removed} from the names"


def _below(state_dict: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns the entries below a prefix, by their names without it and without wrappers.

    Raises:
      UserError: two names are equal without wrappers.
    """
    names = [name for name in state_dict if name.startswith(prefix)]
    found = {_WRAPPER.sub("", name.removeprefix(prefix)): state_dict[name] for name in names}
    if len(found) != len(names):
        raise errors.UserError(
            "two names of the weights are equal without the wrappers of torch.compile and FSDP"
        )
    return found


def _common_prefixes(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the prefixes that all names have, the shortest first."""
    given = list(names)
    prefixes = _prefixes(given[0]) if given else iter(())
    return tuple(prefix for prefix in prefixes if all(name.startswith(prefix) for name in given))


def _prefixes(name: str) -> Iterator[str]:
    """Yields the first parts of a name that end in a dot, the shortest first."""
    dots = itertools.islice(re.finditer(r"\.", name), _DEEPEST)
    yield from (name[: dot.end()] for dot in dots)


def _listed(names: Iterable[str]) -> str:
    return errors.listed([repr(name[:99]) for name in names], 3)
