"""Pictures that several test files of features read."""

from pathlib import Path

import pytest

from tests.streams import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of nine pictures in three class folders."""
    write_folder(tmp_path / "pictures", [0, 1, 2] * 3)
    return tmp_path / "pictures"
