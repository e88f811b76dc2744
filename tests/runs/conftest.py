"""Checkpoints that several test files of this folder read, copy and damage."""

import shutil
from pathlib import Path

import pytest

from tests.saves import write


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a directory with steps 1 (the best) and 2; tests copy it and change the copy."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    assert write(directory, [0.9, 0.1]) == [1, 2]
    return directory


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """Returns a copy of `saved` that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "checkpoints"))
