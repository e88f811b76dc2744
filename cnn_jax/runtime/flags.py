"""Flags that several commands share."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors
from cnn_jax.runtime import files


class StorePath(argparse.Action):
    """Action that stores local paths; see `files.local`.

    A converter (`type=`) could not do this: argparse would replace its message.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Stores the path, or the list of paths.

        Raises:
          UserError: a path is not local, or cannot exist.
        """
        name = option_string or str(self.metavar or self.dest).upper()
        if values is None:  # a positional argument that may be left out
            return
        if isinstance(values, str):
            setattr(namespace, self.dest, files.local(values, name))
        else:
            setattr(namespace, self.dest, [files.local(value, name) for value in values])


def listed(given: Path | None) -> list[Path]:
    """Returns the paths of a flag: those between commas, or one whose name has a comma.

    Args:
      given: the value of the flag; None if it is not given.

    Raises:
      UserError: a path is not local, or cannot exist.
    """
    # Unlike Path.exists, lexists takes a list that is longer than a name may be.
    if given is None or "," not in str(given) or os.path.lexists(given):
        return [] if given is None else [given]
    return [files.local(path, "path") for path in str(given).split(",") if path]


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
    """Adds the flags of a run: `--workdir`, `--checkpoint`, `--average` and `--trust`.

    The value of `--checkpoint` is 'best', 'last' or a step; it is None if the flag is not given,
    which commands treat as 'best'. That of `--average` is None if neither it nor `--no-average` is
    given.

    Args:
      parser: the parser of a command.
      required: True if `--workdir` must be given.
    """
    parser.add_argument(
        "--workdir", required=required, action=StorePath, help="work directory of the run"
    )
    parser.add_argument(
        "--checkpoint", help="of the run: best by validation (default), last, or a step"
    )
    parser.add_argument(
        "--average",
        action=argparse.BooleanOptionalAction,
        help="of the run: use the average of the weights (ema), or do not; default: as its "
        "eval.weights says",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="of the run: also import modules that its config names and that lie in the work "
        "directory or in data.directory; their code is executed",
    )


def add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of a trained network: those of `add_run`, `--model` and `--weights`.

    Args:
      parser: the parser of a command that calls `check_network`.
    """
    add_run(parser, required=False)
    parser.add_argument(
        "--model",
        help="timm's checkpoint NETWORK.TAG on the Hub, or the network of the file --weights",
    )
    parser.add_argument(
        "--weights",
        action=StorePath,
        help="a .safetensors, .pth or .pt file; FILE#state=model_ema takes that part of it",
    )


def check_network(args: argparse.Namespace) -> None:
    """Checks the flags of `add_network`.

    Raises:
      UserError: both or neither of a run and published weights are given, or a flag of a run with
        published weights.
    """
    published = args.model is not None or args.weights is not None
    if published == (args.workdir is not None):
        raise errors.UserError("give either --workdir, or --model, --weights or both")
    given = {
        "--checkpoint": args.checkpoint is not None,
        "--average": args.average is not None,
        "--trust": args.trust,
    }
    for flag in (flag for flag, is_given in given.items() if published and is_given):
        raise errors.UserError(f"{flag} is for --workdir, not for published weights")


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
    parser.add_argument("--out", action=StorePath, help=words)
