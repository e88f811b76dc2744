"""Checks of the commands in the code blocks of README.md and docs/*.md."""

import ast
import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from ml_collections import ConfigDict

from cnn_jax import config_files, errors, models
from tests.doc_pages import FILES, ROOT, Block, location

PROMPT = "$ "
# Programs that commands may start. Only those of Python are checked further.
PROGRAMS = (
    *("apt-get", "bash", "cd", "docker", "export", "git", "mkdir", "mpirun", "pip", "pre-commit"),
    *("pytest", "python", "python3", "source", "srun", "tensorboard"),
)
OWN_PACKAGES = ("cnn_jax", "experiments")

_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
_HELP_FLAG = re.compile(r"^\s+(?:-\w(?: \w+)?, )?--(?:\[no\])?(\w[\w-]*)", re.MULTILINE)


class Command(NamedTuple):
    """A simple command: no pipes, lists or substitutions.

    Attributes:
      label: `page:line` of its first line.
      words: program and arguments.
    """

    label: str
    words: tuple[str, ...]


def commands_of(block: Block) -> list[Command]:
    """Returns the simple commands of a block in order, those within `$(...)` included."""
    return [
        Command(label, words)
        for label, line in _command_lines(block)
        for words in _simple_commands(label, line)
    ]


def _command_lines(block: Block) -> Iterator[tuple[str, str]]:
    """Yields the commands of a block, joined over backslashes at line ends, with their labels."""
    prompts = any(line.startswith(PROMPT) for line in block.lines)
    lines = enumerate(block.lines, block.line + 1)
    for number, line in lines:
        if not line.strip() or (prompts and not line.startswith(PROMPT)):
            continue
        command = line.removeprefix(PROMPT)
        while command.endswith("\\"):
            command = command[:-1] + next(lines, (0, ""))[1]
        yield location(block.page, number), command


def _simple_commands(label: str, line: str) -> Iterator[tuple[str, ...]]:
    outer: list[list[str]] = []  # the commands around a substitution
    words: list[str] = []
    before = ""
    for token in [*_tokens(label, line), ";"]:
        is_rest = before == ")" and token.startswith("/")  # of a word that begins with $(...)
        if token == "(":
            outer.append(words)
            words = []
        elif set(token) <= set(";|&)"):
            yield from _without_assignments(words)
            words = outer.pop() if token == ")" and outer else []
        elif not (_is_redirection(token) or _is_redirection(before) or is_rest):
            words.append(token)
        before = token


def _tokens(label: str, line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError as error:  # an open quotation
        raise AssertionError(f"{label}: {error}") from error


def _is_redirection(token: str) -> bool:
    return re.fullmatch("&?[<>]+[&|]?", token) is not None


def _without_assignments(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    command = tuple(itertools.dropwhile(_ASSIGNMENT.match, words))
    if command:
        yield command


def check_commands(block: Block) -> None:
    """Checks the commands of a block, and fails with the line of one that cannot work."""
    for command in commands_of(block):
        _check_command(command)


def _check_command(command: Command) -> None:
    program, *arguments = command.words
    assert program in PROGRAMS, (
        f"{command.label}: unknown program {program!r}; put output into a text block, or add the"
        " program to PROGRAMS"
    )
    match program, arguments:
        case "python" | "python3", ["-m", module, *rest]:
            _check_module(command.label, module, rest)
        case "python" | "python3", ["-c", code, *_]:
            ast.parse(code, command.label)
        case "python" | "python3", [script, *_]:
            _check_file(command.label, script)
        case "pip", ["install", *rest]:
            for option, value in itertools.pairwise(rest):
                if option in ("-r", "-e"):
                    _check_file(command.label, value)


def _check_file(label: str, name: str) -> None:
    assert _is_placeholder(Path(name).stem) or name in FILES or (ROOT / name).exists(), (
        f"{label}: there is no {name}"
    )


def _is_placeholder(word: str) -> bool:
    return _PLACEHOLDER.fullmatch(word) is not None


def _check_module(label: str, module: str, arguments: Sequence[str]) -> None:
    assert _can_run(module), (
        f"{label}: there is no module {module}, or it is a package without main"
    )
    if module.partition(".")[0] not in OWN_PACKAGES:
        return
    words = [word.strip("[]") for word in arguments]
    if not words:  # Scripts without flags print no help.
        return
    known = _flags(module, _subcommand(module, words))
    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("--config."):
            _check_key(label, flag.removeprefix("--config."), words)
        elif flag.startswith("--"):
            assert flag[2:] in known, f"{label}: {module} has no flag {flag}"
        if flag == "--config":
            _config(label, value)


def _can_run(module: str) -> bool:
    """Returns True if `python -m` finds the module, or `__main__` of the package."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of a package around it
        return False
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None


def _run_module(module: str) -> None:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # It may be imported.
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@functools.cache
def _help(module: str, *subcommand: str) -> str:
    """Returns the help of `python -m module`, which runs in this process to save time."""
    command = [module, *subcommand, "--help"]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            _run_module(module)
    assert caught.value.code == 0, f"{' '.join(command)} has the status {caught.value.code}"
    assert _HELP_FLAG.search(output.getvalue()), f"{' '.join(command)} prints no help"
    return output.getvalue()


def _subcommand(module: str, words: Sequence[str]) -> tuple[str, ...]:
    """Returns the first argument in a tuple if the help of the module lists it as a command."""
    first = next(iter(words), "")
    listed = first.isidentifier() and re.search(rf"^ +{first}  ", _help(module), re.MULTILINE)
    return (first,) if listed else ()


def _flags(module: str, subcommand: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_HELP_FLAG.findall(_help(module, *subcommand)))


def _check_key(label: str, key: str, words: Sequence[str]) -> None:
    if any(map(_is_placeholder, key.split("."))):
        return
    options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    config = _config(label, options.get("config", "configs/base.py"))
    network = options.get("config.model.name", config.model.name)
    assert _has_key(config, key) or _is_option(key, network), f"{label}: no config key {key}"


def _has_key(config: ConfigDict, key: str) -> bool:
    name, _, rest = key.partition(".")
    if name not in config:
        return False
    return not rest or (isinstance(config[name], ConfigDict) and _has_key(config[name], rest))


def _is_option(key: str, network: str) -> bool:
    section, _, name = key.partition(".")
    return section == "model" and name in models.options(network)


def _config(label: str, value: str) -> ConfigDict:
    """Returns the config for the value of `--config`; base.py for a placeholder or a block."""
    path, _, variant = value.partition(":")
    if path in config_files.names():
        path = f"configs/{path}.py"
    if _is_placeholder(Path(path).stem) or path in FILES:
        path, variant = "configs/base.py", ""
    _check_file(label, path)
    module = importlib.import_module(Path(path).with_suffix("").as_posix().replace("/", "."))
    try:
        config = module.get_config(variant) if variant else module.get_config()
    except errors.UserError as error:
        raise AssertionError(f"{label}: {error}") from error
    assert isinstance(config, ConfigDict)
    return config
