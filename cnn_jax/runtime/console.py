"""How a command fails: one message in place of a traceback, and a status that is not 0."""

import sys
from collections.abc import Callable

from cnn_jax import errors


def exit_with(command: Callable[[], int]) -> None:
    """Exit with the status that `command` returns; bad input is status 1 and one message."""
    try:
        status = command()
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    sys.exit(status)
