"""Flags that several commands share."""

import argparse
from pathlib import Path


def make_parser(command: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of `python -m cnn_jax.COMMAND`.

    Args:
      command: the name of the command's module.
      description: the module's docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m cnn_jax.{command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_run(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the flags `--workdir`, the work directory of a run, and `--checkpoint`.

    The value of `--checkpoint` is 'best', 'last' or a step; it is None if the flag is not given,
    which commands treat as 'best'.

    Args:
      parser: the parser of a command.
      required: True if `--workdir` must be given.
    """
    parser.add_argument("--workdir", required=required, type=Path, help="work directory of the run")
    parser.add_argument(
        "--checkpoint", help="of the run: best by validation (default), last, or a step"
    )


def add_batch_size(parser: argparse.ArgumentParser, default: int, words: str) -> None:
    """Adds the flag `--batch_size`.

    Args:
      parser: the parser of a command.
      default: its default.
      words: the help text.
    """
    parser.add_argument("--batch_size", default=default, type=int, help=words)


def add_out(parser: argparse.ArgumentParser, words: str) -> None:
    """Adds the flag `--out`, a file that the command writes; it is None if it is not given.

    Args:
      parser: the parser of a command.
      words: the help text.
    """
    parser.add_argument("--out", type=Path, help=words)
