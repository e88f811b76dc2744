"""Configs that come with cnn_jax: their directory, and imports of their package `configs`."""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

_PACKAGE = "configs"
_INSTALLED = Path(__file__).parents[1] / _PACKAGE
_CLONED = Path(__file__).parents[2] / _PACKAGE


@functools.cache
def directory() -> Path:
    """Returns the directory of the configs: in an installed package `cnn_jax/configs`.

    In a clone it is the folder `configs` beside the package.
    """
    return (_INSTALLED if _INSTALLED.is_dir() else _CLONED).resolve()


def clone() -> Path | None:
    """Returns the directory of the clone that the configs lie in; None for an installed package."""
    return directory().parent if directory() == _CLONED.resolve() else None


@contextlib.contextmanager
def importable(*, first: bool) -> Iterator[None]:
    """Context manager in which `from configs import base` finds the configs of cnn_jax.

    On exit, it restores the earlier modules called `configs`, so that a later import can find
    another package of this name.

    Args:
      first: True to hide every other package `configs`. False to search the others first, such as
        a folder `configs` in the current directory, and to use cnn_jax's for missing modules.
    """
    finder, before = _Finder(), _modules()
    sys.meta_path.insert(0 if first else len(sys.meta_path), finder)
    if first:
        for name in before:
            del sys.modules[name]
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name, module in _modules().items():
            if module is not before.get(name) and _is_shipped(module):
                del sys.modules[name]
        sys.modules.update(before)


class _Finder(importlib.abc.MetaPathFinder):
    """Finder of `configs` and its modules in `directory()`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns the specification of a module; None if it is not one of cnn_jax's configs."""
        place = directory()
        if fullname == _PACKAGE:
            return importlib.util.spec_from_file_location(
                fullname, place / "__init__.py", submodule_search_locations=[str(place)]
            )
        package = fullname.rpartition(".")[0]
        if package != _PACKAGE:
            return None
        # Not by `path`, which is that of a user's package where the user has one.
        return importlib.machinery.PathFinder.find_spec(fullname, [str(place)], target)


def _modules() -> dict[str, ModuleType]:
    """Returns the imported modules of packages called `configs`, by name."""
    return {
        name: module for name, module in sys.modules.items() if name.partition(".")[0] == _PACKAGE
    }


def _is_shipped(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)  # None for a folder without __init__.py
    return file is not None and Path(file).resolve().parent == directory()
