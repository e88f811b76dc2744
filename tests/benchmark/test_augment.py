"""Tests of the benchmark of augmentations: its programs, its figures and its error messages."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.benchmark import __main__, augment, compare_augment, timing, torch_augment
from cnn_jax.data.augment import names

SUM = "rand_augment + random_erasing + mixup"


def test_there_is_a_case_for_each_augmentation() -> None:
    timed = {entry for entries in augment.CASES.values() for entry, _ in entries}
    assert set(names.TABLE) - timed == {"mixup_cutmix", "auto_augment_timm", "auto_augment_tf"}
    assert [entry for entry, _ in augment.CASES[SUM]] == SUM.split(" + ")


def test_torchvision_has_all_but_some_cases() -> None:
    missing = {name for name in augment.CASES if not torch_augment.has(name)}
    assert missing == {"pca_colour", "cutout", "rand_augment_timm", "rand_augment_tf"}


def test_a_program_makes_another_batch_in_each_call() -> None:
    program = augment.program("random_flip", batch_size=8, size=32)
    first, second = program(), program()
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["image"].dtype == np.float32
    assert first["image"].shape == (8, 32, 32, 3)
    assert np.any(first["image"] != second["image"])


def test_speedups_above_one_mean_that_ours_is_faster() -> None:
    timings = {"ours": timing.Timing((2.0,))}
    assert compare_augment.cells(timings) == ["2000.0", "", "", "", ""]
    timings |= {"each image": timing.Timing((3.0,)), "whole batch": timing.Timing((1.0,))}
    assert compare_augment.cells(timings) == ["2000.0", "3000.0", "1.50", "1000.0", "0.50"]


def test_the_command_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "table.csv"
    flags = ["--cases", "none", "--batch=2", "--image_size=32", "--rounds=1", f"--csv={path}"]
    monkeypatch.setattr(sys, "argv", ["benchmark", "augment", *flags])
    assert __main__.main() == 0
    assert "| none |" in capsys.readouterr().out
    header, row = csv.reader(path.read_text().splitlines())
    assert header[0] == "augmentation"
    assert row[0] == "none"


@pytest.mark.parametrize(
    ("name", "batch_size", "size", "message"),
    [
        ("flip", 2, 32, "unknown case 'flip'"),
        ("none", 1, 32, "--batch must be at least 2, got 1"),
        ("none", 2, 31, "--image_size must be at least 32, got 31"),
    ],
)
def test_a_bad_value_is_an_error(name: str, batch_size: int, size: int, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        compare_augment.run([name], batch_size, size, 1, torch=False, csv_path=None)
