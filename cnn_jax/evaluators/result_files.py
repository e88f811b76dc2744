"""Files with the result of an evaluation: their names, and writing as many of them as possible."""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors

_LONGEST = 40  # letters of a split or a set in the name of a file


def name(split: str, words: Sequence[str], exact: Any, which: str) -> str:
    """Returns the name of a JSON file in a work directory: letters, digits and '-' only.

    Different splits or sets may lead to the same letters, so the name also has a digest.

    Args:
      split: the split.
      words: parts of the name, such as the name of the data set; empty ones are left out.
      exact: all that the result depends on, for the digest.
      which: the checkpoint, the last part of the name.

    >>> name("test[:50%]", ["folder photos"], ["test[:50%]", "photos"], "best")
    'evaluation-test-to-50pct-folder-photos-9021cc08-best.json'
    """
    text = json.dumps(exact, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    shown = split.replace("%", "pct").replace("[:", "-to-")
    parts = ("evaluation", *map(_safe, (shown, *words)), digest, which)
    return f"{'-'.join(filter(None, parts))}.json"


def write(
    writers: Sequence[tuple[Path, Callable[[], None]]],
) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Writes files, and goes on after one that cannot be written.

    Args:
      writers: the files, each with the function that writes it.

    Returns:
      The files that were written, and the reasons why others were not.
    """
    written, reasons = [], []
    for path, write_one in writers:
        try:
            write_one()
            written.append(path)
        except (OSError, RuntimeError, ValueError) as error:  # Matplotlib has no class of its own.
            known = isinstance(error, errors.UserError)
            reasons.append(str(error) if known else f"{path} cannot be written: {error}")
    return tuple(written), tuple(reasons)


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]+", "-", text).strip("-")[:_LONGEST]
