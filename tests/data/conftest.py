"""Pictures that several test files of packing read."""

from pathlib import Path

import pytest

from tests.data.packing import encoded, noise, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of 25 JPEGs and PNGs for training and 5 for validation, in two classes."""
    root = tmp_path / "folder"
    for number in range(30):
        split = "train" if number < 25 else "val"
        kind = "PNG" if number % 4 == 0 else "JPEG"
        picture = noise(30 + number, 50 - number, 3)
        name = f"{number}.{kind.lower()}"
        write(root / split / ("cat" if number % 3 else "dog") / name, encoded(picture, kind))
    return root
