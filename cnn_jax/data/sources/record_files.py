"""The package array_record, which Windows lacks: it reads packed shards and prepared TFDS sets."""

import importlib.util
from typing import Any

from cnn_jax import errors

_PACKAGE = "array_record"


def require(user: str) -> None:
    """Checks that array_record is installed.

    Args:
      user: the files that are to be read or written, for the message.

    Raises:
      UserError: it is not installed.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        raise errors.UserError(
            f"{user} needs the package {_PACKAGE}, which is not installed. On Linux and macOS, run "
            f"'pip install {_PACKAGE}'. Windows has no such package: use Linux, or WSL, or images "
            "in folders, IDX or NPZ files (data.source)"
        )


def module(user: str) -> Any:
    """Returns the module with ArrayRecord's reader and writer.

    Args:
      user: see `require`.

    Raises:
      UserError: it is not installed.
    """
    require(user)
    from array_record.python import array_record_module

    return array_record_module
