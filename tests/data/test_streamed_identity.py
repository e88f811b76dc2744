"""The identity of a data set: a folder that changes after the begin of a run is an error."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.data.sources import folders
from tests.feeds import bind, stream
from tests.streams import write_folder

# In one process, so that programs of equal shapes are compiled once.
pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder with three classes in train and validation, which a test may change."""
    write_folder(tmp_path / "images" / "train", [0, 1, 2] * 6)
    write_folder(tmp_path / "images" / "validation", [0, 1, 2] * 2, seed=1)
    return tmp_path / "images"


def add(root: Path, split: str) -> None:
    shutil.copy(next(root.glob("train/001/*")), root / split / "001" / "new.jpg")


def remove(root: Path, split: str) -> None:
    next((root / split / "001").iterdir()).unlink()


def rename(root: Path, split: str) -> None:
    first = next((root / split / "001").iterdir())
    first.rename(first.with_name("renamed.jpg"))


def move(root: Path, split: str) -> None:
    first = next((root / split / "001").iterdir())
    first.rename(root / split / "002" / first.name)


def exchange(root: Path, split: str) -> None:
    for name in ("001", "002"):
        (root / split / name).rename(root / split / f"{name}-moved")
    (root / split / "001-moved").rename(root / split / "002")
    (root / split / "002-moved").rename(root / split / "001")


COUNTS = {"train": 18, "validation": 6}
OTHER = "has other examples than when the run began, as many as before"


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("change", "difference", "message"),
    [
        (add, 1, "{split} has {now} examples, {before} when the run began"),
        (remove, -1, "{split} has {now} examples, {before} when the run began"),
        (rename, 0, f"{{split}} {OTHER}"),
        (move, 0, f"{{split}} {OTHER}"),
        (exchange, 0, f"{{split}} {OTHER}"),
    ],
)
def test_a_change_of_the_folder_is_an_error_that_names_the_split(
    own_folder: Path,
    split: str,
    change: Callable[[Path, str], None],
    difference: int,
    message: str,
) -> None:
    description = stream(folders.source(str(own_folder)), batch_size=4).description
    again = stream(folders.source(str(own_folder)), batch_size=4, description=description)
    assert again.description == description
    assert description.sizes == COUNTS
    change(own_folder, split)
    expected = message.format(split=split, now=COUNTS[split] + difference, before=COUNTS[split])
    for storage in ("streamed", "resident"):
        with pytest.raises(errors.UserError, match=re.escape(f"began: {expected}. Restore")):
            bind(
                folders.source(str(own_folder)),
                batch_size=4,
                storage=storage,
                description=description,
            )


def test_another_class_is_an_error_that_names_it(own_folder: Path) -> None:
    description = stream(folders.source(str(own_folder)), batch_size=4).description
    write_folder(own_folder / "train", [3])
    with pytest.raises(errors.UserError, match=r"the classes are not the run's \(003\); train has"):
        stream(folders.source(str(own_folder)), batch_size=4, description=description)
