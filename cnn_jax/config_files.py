"""Config files: loading them, listing them, and overriding their values by texts."""

import ast
import importlib.machinery
import re
import traceback
import types
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn_jax import errors, plan, schema
from cnn_jax.runtime import files, imports, shipped

_KEY_FLAG = "--config."
_COLON = re.compile(r"(?<!^[A-Za-z]):|:(?![\\/])")  # not that of a drive of Windows, as in C:\x
_WIDEST = 44  # columns of a key and its value, beyond which comments are not aligned


def parse_overrides(words: Sequence[str], flags: Sequence[str]) -> dict[str, str]:
    """Returns the texts of --config.KEY=VALUE and --config.KEY VALUE by key.

    Args:
      words: the arguments of a command that are not its own flags.
      flags: the command's own flags, to suggest for a mistyped one.

    Raises:
      UserError: a word is neither.
    """
    texts = {}
    waiting = deque(words)
    while waiting:
        name, equals, text = waiting.popleft().partition("=")
        if not name.startswith("-"):
            raise errors.UserError(f"unexpected argument {name!r}; flags begin with --")
        if not name.startswith(_KEY_FLAG):
            keys = plan.keys()
            known = [*flags, *(f"{_KEY_FLAG}{path}" for path in keys)]
            raise errors.UserError(f"unknown flag {name!r}; {errors.nearest(name, known)}")
        if not equals:
            is_value = waiting and not waiting[0].startswith("--")
            text = waiting.popleft() if is_value else "True"
        texts[name.removeprefix(_KEY_FLAG)] = text
    return texts


def override(settings: plan.Plan, texts: Mapping[str, str]) -> plan.Plan:
    """Returns a plan with some values replaced.

    Args:
      settings: the plan.
      texts: the new values as written on the command line, by the path of the key, such as
        {"optim.learning_rate": "0.05"}.

    Raises:
      UserError: an unknown key, or a value that is not allowed.
    """
    values = plan.to_dict(settings)
    parsed = {path: _parsed(text, _value(values, path)) for path, text in texts.items()}
    return plan.read(values | parsed)


def _value(values: Any, path: str) -> Any:
    """Returns the value of a key by its path, or None if there is no such key."""
    for name in path.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def _parsed(text: str, old: Any) -> Any:
    """Converts a text from the command line to a value.

    Args:
      text: a Python literal, true, false, or a plain word.
      old: the value to replace; if it is a text, so is the new value.

    >>> _parsed("3", 1), _parsed("3", "word"), _parsed("3", 0.5), _parsed("tanh", None)
    (3, '3', 3.0, 'tanh')
    """
    if isinstance(old, str):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        return (text,) if isinstance(old, tuple) else text
    if isinstance(old, float) and type(value) is int:
        return schema.as_float(value)
    return (value,) if isinstance(old, tuple) and isinstance(value, (int, float)) else value


def load(argument: str) -> plan.Plan:
    """Returns the plan of a config file: of `get_config()`, or of its variable `config`.

    The file can import modules beside it and in the current directory, and the package that it
    belongs to. References such as 'nets:Small' find the same modules. `from configs import base`
    searches a package `configs` of the user first, then that of cnn_jax. A config of cnn_jax
    searches only its own.

    Args:
      argument: FILE or NAME, also with ':VARIANT'; see `find`. `get_config` is called with the
        variant.

    Raises:
      UserError: there is no such file, it cannot be run, or its config has mistakes.
    """
    path, variant = find(argument)
    name = str(path)
    module = types.ModuleType("cnn_jax_config")
    module.__file__ = name
    imports.search_also(path.parent)
    imports.search_also(".")  # A console script, unlike `python -m`, does not search there.
    is_shipped = path.resolve().parent == shipped.directory()
    if is_shipped and (clone := shipped.clone()) is not None:
        imports.search_also(clone)  # for references such as 'configs.nets:Small'
    try:
        with shipped.importable(first=is_shipped):
            module.__package__ = "configs" if is_shipped else imports.make_package(path)
            importlib.machinery.SourceFileLoader(module.__name__, name).exec_module(module)
            return _read(_config_of(module, name, variant), module, name)
    except errors.UserError:
        raise
    except (Exception, SystemExit) as error:
        raise errors.UserError(_place(error, name) + _problem(error)) from error


def _read(config: Any, module: types.ModuleType, name: str) -> plan.Plan:
    """Returns the plan of the config that a file made.

    Raises:
      UserError: the value is not a config, or the config has mistakes.
    """
    if not isinstance(config, (ConfigDict, Mapping, plan.Plan)):
        shown = repr(config)[:_WIDEST]
        raise errors.UserError(f"{name}: {_origin(module)} must be a ConfigDict, got {shown}")
    try:
        return plan.read(config)
    except errors.UserError as error:
        code = getattr(getattr(module, "get_config", None), "__code__", None)
        line = f", line {code.co_firstlineno}" if code else ""
        raise errors.UserError(f"{name}{line}: {error}") from error


def find(argument: str) -> tuple[Path, str | None]:
    """Returns the path of a config file, and the variant; None without one.

    Args:
      argument: FILE or FILE:VARIANT, or NAME or NAME:VARIANT for a config that comes with cnn_jax.
        A file whose path looks like such a name is './NAME'.

    Raises:
      UserError: there is no such file.
    """
    name, colon, variant = argument.partition(":")
    if name.isidentifier() and _is_file(known := shipped.directory() / f"{name}.py"):
        return known, variant if colon else None
    whole = files.local(argument, "--config")
    if _is_file(whole):
        return whole, None
    name, colon, variant = str(whole).partition(".py:")
    path = Path(f"{name}.py" if colon else _COLON.split(name, 1)[0])
    if _is_file(path):
        return path, variant if colon else None
    raise errors.UserError(f"no config file {str(path)!r}; {_nearest(path)}")


def _nearest(path: Path) -> str:
    """Returns the configs whose paths or names are most similar to a missing file, in words."""
    near = [str(file) for file in [*listing(Path("configs")), *listing(path.parent)]]
    return errors.nearest(str(path), dict.fromkeys([*near, *names()]))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _origin(module: types.ModuleType) -> str:
    """Returns the part of a config file that makes its config, in words."""
    return "the result of get_config()" if hasattr(module, "get_config") else "config"


def _config_of(module: types.ModuleType, name: str, variant: str | None) -> Any:
    """Returns the config that a config file makes.

    Args:
      module: the file, loaded as a module.
      name: the path of the file, for messages.
      variant: the text after the colon in FILE:VARIANT; None if there is none.
    """
    if hasattr(module, "get_config"):
        return module.get_config() if variant is None else module.get_config(variant)
    if not hasattr(module, "config"):
        raise errors.UserError(
            f"{name} has neither a function get_config nor a variable config; begin with: "
            "from cnn_jax import plan; config = plan.config(plan.Plan())"
        )
    if variant is not None:
        raise errors.UserError(
            f"{name} has no function get_config, so it has no variant {variant!r}; leave out "
            f"':{variant}'"
        )
    return module.config


def describe(settings: plan.Plan) -> str:
    """Returns every key with its value, default and comment, a line for each, by section.

    A value that is not the default is marked by a star.
    """
    values, keys = plan.flatten(settings), plan.keys()
    rows = [
        (
            "  " if values[path] == key.default else "* ",
            f"{path} = {values[path]!r}",
            f"default {key.default!r}; {key.comment}",
        )
        for path, key in keys.items()
    ]
    rows += [
        ("* ", f"{path} = {value!r}", "option of the network")
        for path, value in values.items()
        if path not in keys
    ]
    width = min(max(len(text) for _, text, _ in rows), _WIDEST)
    lines = (f"{star}{text:<{width}}  # {comment}" for star, text, comment in rows)
    return errors.printable("\n".join(lines), keep_lines=True)


def listing(directory: Path) -> list[Path]:
    """Returns the config files in a directory, sorted, without those that only others import."""
    shared = ("__init__.py", "base.py")
    return [path for path in sorted(directory.glob("*.py")) if path.name not in shared]


def names() -> list[str]:
    """Returns the names of the configs that come with cnn_jax, sorted."""
    return [path.stem for path in listing(shipped.directory())]


def overview() -> str:
    """Returns a line for each config, with its title: those in ./configs, and cnn_jax's by name.

    In a clone these are the same files, which are then listed once, by path.
    """
    here, own = Path("configs"), shipped.directory()
    shown = [(str(path), path) for path in listing(here)]
    if here.resolve() != own:
        shown += [(path.stem, path) for path in listing(own)]
    return "\n".join(f"  {name}  {title(path)}" for name, path in shown)


def title(config_file: Path) -> str:
    """Returns the first line of a config's docstring."""
    with config_file.open(encoding="utf-8", errors="replace") as file:
        return file.readline().strip().strip('"')


def _place(error: BaseException, name: str) -> str:
    """Returns the place of an error in a config file, such as 'configs/a.py, line 3: '.

    Args:
      error: the exception that the file raised.
      name: the path of the config file.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}: "
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == name
    ]
    return f"{name}, line {lines[-1]}: " if lines else f"{name}: "


def _problem(error: BaseException) -> str:
    """Returns the message for an exception that a config file raised, in one line.

    It is 'KIND: TEXT'. For an unknown key it is "unknown config key 'x'" with the nearest keys,
    because ConfigDict's own text prints a whole section.
    """
    while error.args and isinstance(error.args[0], Exception):
        error = error.args[0]
    if isinstance(error, (KeyError, SyntaxError)) and error.args:
        message = str(error.args[0])  # str(error) adds quotes or the line.
    else:  # Unlike str(error), this never raises.
        message = traceback.format_exception_only(error)[-1].partition(": ")[2].strip()
    message = message.partition("\n")[0]
    if key := re.match(r"""Key "(\w+)" does not exist|'(\w+)'$""", message):
        name = key[1] or key[2]
        return f"unknown config key {name!r}; {errors.nearest(name, plan.keys())}"
    return f"{type(error).__name__}: {message}"
