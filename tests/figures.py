"""Stand-in for the figures of runs and evaluations, which take matplotlib longer than small runs.

`tests/runs/test_plots.py`, `tests/runs/test_logs.py` and `tests/test_evaluate.py` test the figures.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from cnn_jax.runs import plots
from cnn_jax.runtime import files


@contextlib.contextmanager
def stand_in() -> Iterator[None]:
    """Writes a few bytes in place of each figure within this context."""

    def write(*arguments: Any) -> None:
        files.write(arguments[-1], b"a figure")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "curves", write)
        patch.setattr(plots, "confusion", write)
        patch.setattr(plots, "reliability", write)
        yield
