"""Import of a user's objects that a config names as 'module:attribute'.

Networks, sources, losses, metrics, augmentations and optimizers may be named so;
`contracts.py` has their signatures.
"""

import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from cnn_jax import errors

_directories: dict[str, str] = {}


def is_reference(text: str) -> bool:
    """Returns True for texts of the form 'module:attribute'."""
    return ":" in text


def search_also(directory: str | Path) -> None:
    """Adds a directory to the end of Python's search path, after all that is installed."""
    path = str(Path(directory).resolve())
    if path not in sys.path:
        sys.path.append(path)


def directories() -> dict[str, str]:
    """Returns the modules that `load` imported, each with the directory that it was found in."""
    return dict(_directories)


def load(reference: str, key: str) -> Any:
    """Returns the object that a config names.

    The module is searched in the current directory, and then as Python does: in PYTHONPATH and
    among the installed packages.

    Args:
      reference: 'module:attribute', such as 'my_package.nets:TwoHeads'.
      key: the config key that has this value, for messages.

    Raises:
      NotImportableError: there is no such module or attribute, or the module raises an error.
    """
    module_name, _, attribute = reference.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise errors.UserError(
            f"{key} {reference!r} is not of the form 'module:attribute', such as "
            "'my_package.nets:TwoHeads'"
        )
    search_also(".")
    found = _import(module_name, reference, key)
    _directories[module_name] = _directory(found)
    try:
        for name in attribute.split("."):
            found = getattr(found, name)
    except AttributeError as error:
        public = sorted(name for name in vars(found) if not name.startswith("_"))
        raise errors.NotImportableError(
            f"{key} {reference!r}: the module {module_name} "
            f"({getattr(sys.modules[module_name], '__file__', 'built in')}) has no attribute "
            f"{attribute!r}; {errors.nearest(attribute, public)}"
        ) from error
    return found


def _directory(module: ModuleType) -> str:
    """Returns the directory from which a module is imported; empty for one without a file."""
    if not getattr(module, "__file__", None):
        return ""
    path = Path(str(module.__file__)).resolve()
    inside = path.parent if path.stem == "__init__" else path
    return str(inside.parents[module.__name__.count(".")])


def _import(module_name: str, reference: str, key: str) -> Any:
    importlib.invalidate_caches()  # The file may be younger than Python's list of the directory.
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        wanted = error.name or module_name
        if not f"{module_name}.".startswith(f"{wanted}."):
            raise errors.NotImportableError(
                f"{key} {reference!r}: the module {module_name} imports {wanted!r}, which is not "
                "installed"
            ) from error
        raise errors.NotImportableError(
            f"{key} {reference!r}: there is no module {wanted!r} in the current directory "
            f"({Path.cwd()}), in PYTHONPATH ({os.environ.get('PYTHONPATH') or 'not set'}) or among "
            "the installed packages; run the command in the directory of the module, or add that "
            "directory to PYTHONPATH"
        ) from error
    except Exception as error:
        raise errors.NotImportableError(
            f"{key} {reference!r}: the module {module_name} cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
