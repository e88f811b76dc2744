"""How a family's modules are called in the state dicts of torch, timm and torchvision."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

# What our leaves are called there; other leaves keep their names.
_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


@dataclass(frozen=True)
class Names:
    """The rename table of a family.

    Attributes:
      rules: pairs of a regular expression and its replacement, applied one after the other to our
        path of a module, such as `mixed5b.branch1x1.conv`. Without any, the names are the same.
      flattened: for each dense layer that follows a flattened image, by our path, the channels of
        that image: torch flattens `[C, H, W]`, we flatten `[H, W, C]`.
      convolved: for each dense layer that is a convolution there, by our path, its kernel's size.
      entries: further rules, applied to the name of the variable that comes of all that.
      options: fields of the network that differ from the variant's where weights have these names.
    """

    rules: tuple[tuple[str, str], ...] = ()
    flattened: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    convolved: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    entries: tuple[tuple[str, str], ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def torch(self, path: tuple[str, ...]) -> str:
        """The state dict's name of the variable at our path, the collection left out."""
        *modules, leaf = path
        name = self.module(modules)
        return _renamed(f"{name}.{_LEAVES.get(leaf, leaf)}" if name else leaf, self.entries)

    def module(self, modules: Iterable[str]) -> str:
        """The reference's name of the module at our path."""
        return _renamed(".".join(modules), self.rules)


def _renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
