"""Import of a user's objects that a config names as 'module:attribute'.

Networks, sources, losses, metrics, augmentations and optimizers may be named so;
`contracts.py` has their signatures.

A config that came with a work directory may be untrusted. Within the context `outside`,
`load` imports no file of that directory or of the data set.
"""

import contextlib
import contextvars
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from cnn_jax import errors

_directories: dict[str, str] = {}
_received: contextvars.ContextVar[tuple[Path, ...] | None] = contextvars.ContextVar(
    "received", default=None
)


def is_reference(text: str) -> bool:
    """Returns True for texts of the form 'module:attribute'."""
    return ":" in text


def search_also(directory: str | Path) -> None:
    """Adds a directory to the end of Python's search path, after all that is installed."""
    path = str(Path(directory).resolve())
    if path not in sys.path:
        sys.path.append(path)


def make_package(file: Path) -> str:
    """Makes the package that a file lies in importable; returns its name, or an empty string.

    A package that is imported already stays as it is, also if it is another one of the same name.
    """
    directory, names = file.resolve().parent, list[str]()
    while directory.name and (directory / "__init__.py").is_file():
        names.insert(0, directory.name)
        directory = directory.parent
    if names and names[0] not in sys.modules:
        top = directory / names[0]
        # Not by the search path: the current directory may have a package of the same name.
        spec = importlib.util.spec_from_file_location(
            names[0], top / "__init__.py", submodule_search_locations=[str(top)]
        )
        if spec is not None and spec.loader is not None:
            sys.modules[names[0]] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[names[0]])
    return ".".join(names)


@contextlib.contextmanager
def outside(received: Iterable[str | Path]) -> Iterator[None]:
    """Context manager in which `load` refuses modules whose files lie in untrusted directories.

    `load` also refuses the modules of Python itself, because no network, source or loss is there.
    Files below the current directory are trusted, except those inside a directory of `received`
    that is itself below the current directory.

    Args:
      received: work directories and directories of data sets; other paths have no effect.
    """
    token = _received.set(tuple(path for given in received if (path := _real(given))))
    try:
        yield
    finally:
        _received.reset(token)


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
      UserError: the text has another form, or the context `outside` refuses the module's file.
    """
    module_name, _, attribute = reference.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts):
        raise errors.UserError(
            f"{key} {reference!r} is not of the form 'module:attribute', such as "
            "'my_package.nets:TwoHeads'"
        )
    search_also(".")
    importlib.invalidate_caches()  # The file may be younger than Python's list of the directory.
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


def _refusal(module_name: str) -> str:
    """Returns the reason why the context `outside` refuses a module; empty if it does not.

    Imports the packages that the module is in, one by one, each after its check.
    """
    received = _received.get()
    if received is None:
        return ""
    parts = module_name.split(".")
    if parts[0] in sys.stdlib_module_names:
        return f"{parts[0]} is a part of Python, where no network, source or loss is"
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        file = _file(name)
        inside = [path for path in received if file and _is_inside(file, path)]
        if inside:
            return f"its file {file} lies in {inside[0]}, which is treated as data"
        importlib.import_module(name)
    return ""


def _file(module_name: str) -> str:
    """Returns the file that an import would execute; empty if there is none.

    The packages that the module is in are imported already.
    """
    if module_name in sys.modules:
        return getattr(sys.modules[module_name], "__file__", None) or ""
    spec = importlib.util.find_spec(module_name)
    return spec.origin or "" if spec is not None and spec.has_location else ""


def _is_inside(file: str, directory: Path) -> bool:
    """Returns True if a file is below a directory, by its path or through links.

    Files below the current directory are the user's own. For them, the result is False if the
    current directory is inside `directory`.
    """
    own = Path.cwd().resolve()
    path = Path(file).absolute()
    return any(
        each.is_relative_to(directory)
        and not (own.is_relative_to(directory) and each.is_relative_to(own))
        for each in (Path(os.path.realpath(path.parent), path.name), Path(os.path.realpath(path)))
    )


def _real(path: str | Path) -> Path | None:
    """Returns a path without links; None for an empty one, or one that cannot exist."""
    try:
        return Path(os.path.realpath(Path(path).expanduser())) if str(path) else None
    except (RuntimeError, ValueError):  # no home directory of this name, a zero byte
        return None


def _import(module_name: str, reference: str, key: str) -> Any:
    try:
        refusal = _refusal(module_name)
        found = None if refusal else importlib.import_module(module_name)
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
    if refusal:
        raise errors.UserError(
            f"{key} {reference!r} is not imported: {refusal}; if you trust the config, add "
            "--trust (in Python: trust=True)"
        )
    return found
