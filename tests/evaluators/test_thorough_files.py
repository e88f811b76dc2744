"""Tests of the files of thorough evaluations: rows of the examples, tables, confusion matrices."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import errors, limits
from cnn_jax.evaluators import example_rows, results_csv, scores, thorough
from cnn_jax.evaluators.request import Request
from cnn_jax.runs import workdir
from tests import figures
from tests.evaluators.given import first

# In one process, so that its fixtures run once.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw no figures."""
    with figures.stand_in():
        yield


def test_the_rows_are_read_without_pickle(
    runs: tuple[Path, Path], logits: dict[str, np.ndarray], tmp_path: Path
) -> None:
    out = tmp_path / "a.json"
    thorough.run(first(runs), Request(out=out))
    with np.load(out.with_suffix(".npz"), allow_pickle=False) as rows:
        found = dict(rows)
    expected = scores.per_example(logits["test"], logits["test labels"])
    np.testing.assert_array_equal(found["labels"], logits["test labels"])
    np.testing.assert_array_equal(found["predicted"], expected.predicted)
    np.testing.assert_array_equal(found["right"], expected.right())
    np.testing.assert_allclose(found["nll"], expected.nll, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found["confidence"], expected.confidence, rtol=1e-3)
    assert found["names"][3] == "test, image 3"


def test_a_file_that_cannot_be_written_is_named(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path, name: str, content: object) -> None:
        raise OSError("Read-only file system")

    monkeypatch.setattr(workdir, "save", refuse)
    out = tmp_path / "a.json"
    found = thorough.run(first(runs), Request(out=out))
    assert found.unwritten == (f"{out} cannot be written: Read-only file system",)
    assert found.written == (out.with_suffix(".npz"), out.with_suffix(".png"))


@pytest.mark.parametrize("confusion", [False, True])
def test_a_large_confusion_matrix_is_an_array(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, confusion: bool
) -> None:
    monkeypatch.setattr(limits, "MAX_CONFUSION_CLASSES", 5)
    out = tmp_path / "a.json"
    found = thorough.run(first(runs), Request(out=out, confusion=confusion))
    assert "confusion" not in json.loads(out.read_text())
    array = out.with_suffix(".npy")
    assert set(found.written) == {out, out.with_suffix(".npz"), *([array] if confusion else [])}
    if confusion:
        np.testing.assert_array_equal(np.load(array), found.found.confusion())
    with pytest.raises(errors.UserError, match=r"a\.json exists and is not overwritten"):
        thorough.run(first(runs), Request(out=out))
    out.unlink()
    with pytest.raises(errors.UserError, match=r"a\.npz exists and is not overwritten"):
        thorough.run(first(runs), Request(out=out))


def test_examples_are_matched_by_name(tmp_path: Path) -> None:
    names, classes = np.array(["a", "b", "c"]), np.array(["cat", "dog"])
    labels, ones = np.array([0, 1, 1]), np.ones(3)
    rows = example_rows.ExampleRows(names, labels, classes, labels, ones > 0, ones, ones)
    turned = dataclasses.replace(rows, names=names[::-1], labels=labels[::-1])
    path = tmp_path / "a.json"
    example_rows.write(path.with_suffix(".npz"), turned)
    earlier = example_rows.read(path)
    np.testing.assert_array_equal(example_rows.match(rows, earlier, "a"), [2, 1, 0])
    for changes, message in (
        ({"labels": np.array([1, 1, 1])}, "another label for 'a' and 1 of 3 examples"),
        ({"class_names": classes[::-1]}, "other classes"),
        ({"names": np.array(["a", "b", "d"])}, "has other examples: 1 are only .* 1 only there"),
        ({"names": np.array(["a", "b", "b"])}, "has other examples: 0 are only .* 1 only there"),
    ):
        with pytest.raises(errors.UserError, match=message):
            example_rows.match(dataclasses.replace(rows, **changes), earlier, "a")


def npy() -> bytes:
    """Returns the content of an array of NumPy, which is no archive of arrays."""
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no .*, the rows of"),
        (b"PK damaged", "cannot be read"),
        (npy(), "cannot be read: File is not a zip file"),
        ({"names": np.array([{}])}, "cannot be read: Object arrays cannot be loaded"),
        ({"names": np.zeros(3)}, "is not a file of an evaluation's rows"),
        ({"labels": np.array([0, 1, 2])}, "is not a file of an evaluation's rows"),
        ({"right": np.array([True])}, "is not a file of an evaluation's rows"),
    ],
)
def test_damaged_rows_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "a.json"
    ones = np.ones(3)
    columns = {
        "names": np.array(["a", "b", "c"]),
        "class_names": np.array(["cat", "dog"]),
        "labels": np.array([0, 1, 1]),
        "predicted": np.array([0, 1, 1]),
        "right": ones > 0,
        "confidence": ones,
        "nll": ones,
    }
    if isinstance(content, bytes):
        path.with_suffix(".npz").write_bytes(content)
    elif content is not None:
        np.savez(path.with_suffix(".npz"), **{**columns, **content})
    with pytest.raises(errors.UserError, match=message):
        example_rows.read(path)


def test_lines_are_appended_to_a_table(runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    results = [
        thorough.run(first(runs), request)
        for request in (Request(csv=path), Request(csv=path, calibrate=True, views="mirrored"))
    ]
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert tuple(rows[0]) == results_csv.COLUMNS
    for row, result in zip(rows, results, strict=True):
        content = result.content
        assert row["model"] == str(runs[0])
        assert float(row["top1"]) == pytest.approx(100 * content["top1"], abs=1e-3)
        assert float(row["top1_err"]) == pytest.approx(100 - 100 * content["top1"], abs=1e-3)
        assert float(row["ece"]) == content["ece"]
        assert float(row["param_count"]) == pytest.approx(content["param_count"] / 1e6, abs=1e-4)
        assert (row["img_size"], row["crop_pct"], row["split"]) == ("32", "1.0", "test")
    assert rows[0]["temperature"] == ""
    assert float(rows[1]["temperature"]) == results[1].content["calibration"]["temperature"]
    assert rows[1]["views"] == "mirrored"
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(path)
    assert table["top1"].tolist() == pytest.approx([float(row["top1"]) for row in rows])


def test_a_table_with_other_columns_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("model,top1\nresnet50,80\n")
    with pytest.raises(errors.UserError, match="has other columns, model, top1, and is not chan"):
        thorough.run(first(runs), Request(csv=path))
    assert path.read_text() == "model,top1\nresnet50,80\n"


def test_a_table_that_cannot_be_written_is_named(
    runs: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, rows: Any) -> None:
        raise errors.UserError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(results_csv, "append", refuse)
    out, table = tmp_path / "a.json", tmp_path / "results.csv"
    found = thorough.run(first(runs), Request(split="test[:20]", out=out, csv=table))
    assert out in found.written
    assert found.unwritten == (f"{table} cannot be written: No space left on device",)


def test_a_link_to_a_missing_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.symlink_to(tmp_path / "gone.csv")
    with pytest.raises(errors.UserError, match="is a link to a file that does not exist"):
        results_csv.check(path)


def test_rows_that_take_too_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_ROWS_BYTES", 10_000)
    np.savez_compressed(tmp_path / "a.npz", names=np.zeros(10_000))
    with pytest.raises(errors.UserError, match=r"80,\d+ bytes, more than the limit of 10,000"):
        example_rows.read(tmp_path / "a.json")
