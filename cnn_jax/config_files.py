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

from cnn_jax import errors, plan

_KEY_FLAG = "--config."


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
    except (SyntaxError, ValueError):
        return text
    if isinstance(old, float) and type(value) is int:
        return float(value)
    return (value,) if isinstance(old, tuple) and isinstance(value, (int, float)) else value


def load(argument: str) -> ConfigDict | Mapping[str, Any] | plan.Plan:
    """Returns the return value of a config file's `get_config`.

    Args:
      argument: FILE or FILE:VARIANT; `get_config` is called with the variant.

    Raises:
      UserError: there is no such file, or it cannot be run.
    """
    name, colon, variant = argument.partition(":")
    if not Path(name).is_file():
        near = dict.fromkeys([*listing(Path("configs")), *listing(Path(name).parent)])
        hint = errors.nearest(name, map(str, near)) if near else "there is none in configs/ either"
        raise errors.UserError(f"no config file {name!r}; {hint}")
    module = types.ModuleType("cnn_jax_config")
    module.__file__ = name
    try:
        importlib.machinery.SourceFileLoader(module.__name__, name).exec_module(module)
        if not hasattr(module, "get_config"):
            raise errors.UserError(f"{name} has no function get_config; see configs/quickstart.py")
        config = module.get_config(variant) if colon else module.get_config()
    except errors.UserError:
        raise
    except Exception as error:
        raise errors.UserError(_place(error, name) + _problem(error)) from error
    if not isinstance(config, (ConfigDict, Mapping, plan.Plan)):
        raise errors.UserError(f"{name}: get_config() must return a ConfigDict, got {config!r}")
    return config


def listing(directory: Path) -> list[Path]:
    """Returns the config files in a directory, sorted, without those that only others import."""
    shared = ("__init__.py", "base.py")
    return [path for path in sorted(directory.glob("*.py")) if path.name not in shared]


def title(config_file: Path) -> str:
    """Returns the first line of a config's docstring."""
    with config_file.open() as file:
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
    is_text = isinstance(error, (KeyError, SyntaxError))  # str() adds quotes or the line.
    message = (str(error.args[0]) if is_text else str(error)).partition("\n")[0]
    if key := re.match(r"""Key "(\w+)" does not exist|'(\w+)'$""", message):
        name = key[1] or key[2]
        return f"unknown config key {name!r}; {errors.nearest(name, plan.keys())}"
    return f"{type(error).__name__}: {message}"
