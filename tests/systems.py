"""The standard library of other operating systems, as the stubs of mypy describe it.

As a program, this file runs commands of cnn_jax as on Windows, as far as the package can see:

    python -m tests.systems CODE...
"""

import ast
import builtins
import contextlib
import errno
import fcntl
import functools
import importlib
import os
import re
import runpy
import signal
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mypy

STUBS = Path(mypy.__file__).parent / "typeshed" / "stdlib"
_IMPORT = re.compile(r"^\s*(?:import|from) (\w+)", re.MULTILINE)
SYSTEMS = ("win32", "darwin")


@functools.cache
def missing(module: str, system: str) -> frozenset[str]:
    """Returns the attributes of a module of the standard library that Linux has and `system` not.

    If `system` lacks the whole module, these are all of its own attributes.
    """
    return frozenset(_defined(module, "linux") - _defined(module, system))


@functools.cache
def is_missing(module: str, system: str) -> bool:
    """Returns True if Linux has a module of the standard library and `system` has not."""
    return bool(_defined(module, "linux")) and not _defined(module, system)


def _defined(module: str, system: str) -> set[str]:
    """Returns the public names that a stub defines for a system."""
    paths = (STUBS / f"{module}.pyi", STUBS / module / "__init__.pyi")
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        return set()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {name for name in _names(body, system) if not name.startswith("_")}


def _names(body: list[ast.stmt], system: str) -> Iterator[str]:
    for node in body:
        match node:
            case ast.If():
                yield from _names(node.body if _holds(node.test, system) else node.orelse, system)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name


def _holds(test: ast.expr, system: str) -> bool:
    """Returns the value of a condition of a stub, such as `sys.platform != "win32"`."""
    seen = types.SimpleNamespace(platform=system, version_info=sys.version_info)
    code = compile(ast.Expression(test), "stub", "eval")
    return bool(eval(code, {"sys": seen, "TYPE_CHECKING": True}))


def lacking(code: str, system: str) -> list[str]:
    """Returns the modules and attributes in a program that a system lacks, with their lines.

    A function or a statement with `hasattr(os, ...)` for such an attribute may use them, and a
    `try` statement that handles ImportError may.
    """
    if not any(missing(name, system) for name in _IMPORT.findall(code)):
        return []  # Most files; parsing takes the time of this function.
    tree = ast.parse(code)
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    modules = {alias.name for node in imports for alias in node.names}
    modules = {name for name in modules if missing(name, system)}
    is_asked = "hasattr(" in code
    return [
        f"line {node.lineno}: {name}"
        for node in _unguarded(tree, system, is_asked)
        for name in _lacking(node, system, modules)
    ]


def _unguarded(tree: ast.AST, system: str, is_asked: bool) -> Iterator[ast.expr | ast.stmt]:
    """Yields the attributes and imports that run on every system."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if _handles_import_errors(node) or (is_asked and _is_guarded(node, system)):
            continue
        if isinstance(node, (ast.Attribute, ast.Import, ast.ImportFrom)):
            yield node
        waiting.extend(ast.iter_child_nodes(node))


def _lacking(node: ast.AST, system: str, modules: set[str]) -> list[str]:
    match node:
        case ast.Attribute(value=ast.Name(id=module), attr=name) if module in modules:
            return [f"{module}.{name}"] if name in missing(module, system) else []
        case ast.Import(names=names):
            return [each.name for each in names if is_missing(each.name, system)]
        case ast.ImportFrom(module=str(module), names=names):
            absent = missing(module, system)
            return [f"{module}.{each.name}" for each in names if each.name in absent]
    return []


def _handles_import_errors(node: ast.AST) -> bool:
    handlers = node.handlers if isinstance(node, ast.Try) else []
    parts = (part for handler in handlers if handler.type for part in ast.walk(handler.type))
    return any(isinstance(part, ast.Name) and part.id == "ImportError" for part in parts)


def _is_guarded(node: ast.AST, system: str) -> bool:
    is_scope = isinstance(node, (ast.FunctionDef, ast.If, ast.Assign, ast.AnnAssign))
    return is_scope and any(_asks(part, system) for part in ast.walk(node))


def _asks(node: ast.AST, system: str) -> bool:
    match node:
        case ast.Call(
            func=ast.Name(id="hasattr"), args=[ast.Name(id=module), ast.Constant(value=str(name))]
        ):
            return name in missing(module, system)
    return False


class _Seen(types.ModuleType):
    """A module of the standard library without the attributes that Windows lacks."""

    def __init__(self, name: str, replaced: Mapping[str, Any]) -> None:
        super().__init__(name)
        vars(self).update(replaced, _module=importlib.import_module(name))

    def __getattr__(self, name: str) -> Any:
        if name in missing(self.__name__, "win32"):
            raise AttributeError(f"Windows: module {self.__name__!r} has no attribute {name!r}")
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)


def _refuse_sigterm(number: int, handler: Any) -> Any:
    if number == signal.SIGTERM:
        raise ValueError("no handlers of SIGTERM here")
    return signal.signal(number, handler)


def _refuse_open_files(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function of paths that refuses open files, as Windows does, where cnn_jax calls it.

    Windows renames, replaces and removes no file that Python has open.
    """

    def called(*paths: Any, **options: Any) -> Any:
        package = str(sys._getframe(1).f_globals.get("__package__") or "")
        if package.partition(".")[0] == "cnn_jax":
            for path in paths:
                if os.path.realpath(path) in _open_files():
                    raise PermissionError(errno.EACCES, "Windows: the file is open", str(path))
        return function(*paths, **options)

    return called


def _open_files() -> set[str]:
    """Returns the paths of the files that this process has open."""
    found = set()
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # That of the listing itself.
            found.add(str(link.readlink()))
    return found


def _fsync(descriptor: int) -> None:
    """Writes a file to the disk; Windows refuses files that are open for reading only."""
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Windows: the file is open for reading only")
    os.fsync(descriptor)


def _pipe() -> tuple[int, int]:
    """Returns a pipe that `signal.set_wakeup_fd` takes on Linux too; Windows' takes every pipe."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    return reader, writer


def simulate_windows() -> None:
    """Lets the modules of cnn_jax that are imported from now on see Windows' standard library.

    Other packages keep what they need of Linux.
    """
    original = builtins.__import__
    replaced: dict[str, Mapping[str, Any]] = {
        "os": {
            "name": "nt",
            "pipe": _pipe,
            "fsync": _fsync,
            "replace": _refuse_open_files(os.replace),
        },
        "platform": {"libc_ver": lambda: ("", ""), "system": lambda: "Windows"},
        "select": {},
        "signal": {"signal": _refuse_sigterm},
        "sys": {"platform": "win32"},
        "time": {},
    }
    seen = {name: _Seen(name, values) for name, values in replaced.items()}

    def imported(name: str, *arguments: Any, **named: Any) -> Any:
        found = original(name, *arguments, **named)
        importer = arguments[0] if arguments else named.get("globals")
        package = str((importer or {}).get("__package__") or "")
        if package.partition(".")[0] != "cnn_jax":
            return found
        if is_missing(name, "win32"):
            raise ModuleNotFoundError(f"Windows: no module named {name!r}", name=name)
        return seen.get(name, found)

    for method in ("rename", "replace", "unlink"):
        setattr(Path, method, _refuse_open_files(getattr(Path, method)))
    # The machinery of imports calls this function for each `import` statement.
    builtins.__import__ = imported


def main() -> None:
    """Runs each argument, a command line such as 'cnn_jax.summary lenet5', in this process."""
    commands = [text.split() for text in sys.argv[1:]]
    simulate_windows()
    for module, *arguments in commands:
        sys.argv = [module, *arguments]
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as error:
            if error.code:
                raise


if __name__ == "__main__":
    main()
