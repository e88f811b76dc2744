"""Lists of the examples of stratified splits, which a run stores and compares."""

from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.data import stratified

LISTS = {"train": ["b/2.png", "a/ä 1.png", "a/\udcff.png"], "test": ["a/3.png"]}


def stored(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / "splits").iterdir()}


def test_lists_are_written_once_and_compared_later(tmp_path: Path) -> None:
    work = tmp_path / "work"
    stratified.write(work, LISTS)
    content = {
        "train.txt": b"b/2.png\na/\xc3\xa4 1.png\na/\xff.png\n",
        "test.txt": b"a/3.png\n",
    }
    assert stored(work) == content
    times = [path.stat().st_mtime_ns for path in (work / "splits").iterdir()]
    stratified.write(work, LISTS)
    assert times == [path.stat().st_mtime_ns for path in (work / "splits").iterdir()]
    (work / "splits" / "test.txt").unlink()  # A crash between two lists.
    stratified.write(work, LISTS)
    assert stored(work) == content


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (LISTS | {"train": ["b/2.png", "a/1.png"]}, r"split 'train' differs .*line 2 is 'a/ä 1"),
        (LISTS | {"train": ["b/2.png", "a/1.png"]}, r"there, 'a/1\.png' now; restore the data set"),
        (LISTS | {"test": ["a/3.png", "a/4.png"]}, "line 2 is missing there, 'a/4.png' now"),
        (LISTS | {"test": []}, "line 1 is 'a/3.png' there, missing now"),
        ({"train": LISTS["train"]}, r"test\.txt is there, but this run has no split 'test'"),
    ],
)
def test_another_list_is_an_error_and_changes_nothing(
    tmp_path: Path, names: dict[str, list[str]], message: str
) -> None:
    stratified.write(tmp_path, LISTS)
    before = stored(tmp_path)
    with pytest.raises(errors.UserError, match=message):
        stratified.write(tmp_path, names)
    assert stored(tmp_path) == before


def test_a_name_with_a_line_break_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"'a\\nb\.png' in split 'train' has a line break"):
        stratified.write(tmp_path, {"test": ["b.png"], "train": ["a\nb.png"]})
    assert not list(tmp_path.iterdir())


def test_lists_that_cannot_be_written_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "splits").write_text("a file")
    with pytest.raises(errors.UserError, match="the lists of splits cannot be stored"):
        stratified.write(tmp_path, LISTS)
