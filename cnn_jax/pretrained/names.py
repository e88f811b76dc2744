"""How a family's modules are called in the state dicts of torch, timm and torchvision."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

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
    """

    rules: tuple[tuple[str, str], ...] = ()
    flattened: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def torch(self, path: tuple[str, ...]) -> str:
        """The state dict's name of the variable at our path, the collection left out."""
        *modules, leaf = path
        name = ".".join(modules)
        for pattern, replacement in self.rules:
            name = re.sub(pattern, replacement, name)
        return f"{name}.{_LEAVES.get(leaf, leaf)}" if name else leaf
