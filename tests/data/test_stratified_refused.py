"""Tables, options and examples from which no stratified splits can be made."""

import re
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors
from cnn_jax.data import stratified
from tests.data.divisions import divide, examples, write_table

NAMES = ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["name;group", "a/1.png;x"], "must have the columns 'name' and 'group'"),
        (["name;group", "a/1.png;x"], "it has 'name;group'"),
        ([], "it has none"),
        (["name,person"], "it has 'name', 'person'"),
        (["name,group", "a/1.png,x", "a/1.png,x"], "line 3: the name 'a/1.png' is in the file"),
        (["name,group", "a/1.png"], "line 2: the group is missing"),
        (["name,group", "a/1.png,"], "line 2: the group is missing"),
        (["name,group", ",x"], "line 2: the name is missing"),
        (["name,group", '"a/1.png,x'], "cannot be read: unexpected end of data"),
        (["name,group", "a/1.png,x", "b/2.png,x"], "2 of 4 examples are not in the column 'name'"),
        (["name,group", "a/1.png,x", "b/2.png,x"], "the first is 'a/2.png'"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path: Path, rows: list[str], message: str) -> None:
    table = write_table(tmp_path / "groups.csv", rows) if rows else str(tmp_path / "groups.csv")
    if not rows:
        Path(table).touch()
    with pytest.raises(errors.UserError, match=re.escape(message)):
        divide([0, 0, 1, 1], NAMES, groups=table)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"no\.csv cannot be read: .*No such file"):
        divide([0, 0, 1, 1], NAMES, groups=str(tmp_path / "no.csv"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": (0.8, 0.2)}, "data.split_shares must be three numbers of at least 0"),
        ({"shares": (0.8, 0.3, -0.1)}, "must be three numbers of at least 0"),
        ({"shares": (0.8, 0.2, float("nan"))}, "must be three numbers of at least 0"),
        ({"shares": (0.8, 0.1, 0.2)}, "must add up to 1"),
        ({"shares": (0.8, 0.1, 0.2)}, "which add up to 1.1"),
        ({"shares": (0.0, 0.5, 0.5)}, "with a share of train above 0"),
        ({"folds": 1}, "data.split_folds must be 0 (no cross-validation) or at least 2, got 1"),
        ({"folds": 3, "fold": 3}, "data.split_fold must be from 0 to 2, the number of folds minus"),
        ({"folds": 3, "fold": -1}, "data.split_folds=3, got -1"),
        ({"fold": 1}, "data.split_fold must be 0 for data.split_folds=0, got 1"),
        ({"groups": "person("}, "missing ), unterminated subpattern at position 6 of 'person('"),
    ],
)
def test_wrong_options_are_found_without_data(changes: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"shares": (0.8, 0.1, 0.1), "folds": 0, "fold": 0, "groups": ""}
    with pytest.raises(errors.UserError, match=re.escape(message)):
        stratified.check(**(options | changes))
    with pytest.raises(errors.UserError, match=re.escape(message)):
        divide([0, 0, 1, 1], NAMES, **changes)


@pytest.mark.parametrize("groups", ["", r"(\d+)_", "missing.csv"])
def test_check_accepts_right_options(groups: str) -> None:
    stratified.check((0.333333, 0.333333, 0.333334), 0, 0, groups)
    stratified.check((1.0, 0.0, 0.0), 5, 4, groups)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            "no example is left for 'validation': data.split_shares=(0.8, 0.1, 0.1) of 4 examples",
        ),
        ({"groups": "a|b"}, "no example is left for 'validation'"),
        ({"groups": "a|b"}, "of 4 examples in 2 groups; add examples, or set the share of valid"),
        ({"groups": "a/"}, "2 of 4 examples do not match data.split_groups='a/'"),
        ({"groups": "a/"}, "the first is 'b/1.png'"),
        ({"groups": "x*"}, "4 of 4 examples do not match"),
        ({"groups": "(x)?/"}, "4 of 4 examples do not match"),
        ({"folds": 5, "shares": (1.0, 0.0, 0.0)}, "data.split_folds=5 is more than the number of"),
        ({"folds": 5, "shares": (1.0, 0.0, 0.0)}, "examples outside 'test', which is 4"),
        ({"folds": 3, "shares": (1.0, 0.0, 0.0), "groups": r"\d"}, "groups outside 'test', which"),
        ({"folds": 2, "shares": (1.0, 0.0, 0.0), "groups": "a|b"}, "at least 2 groups of each"),
        ({"folds": 2, "shares": (1.0, 0.0, 0.0), "groups": "a|b"}, "but class 0 has 1"),
    ],
)
def test_too_few_examples_or_groups_are_explained(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=re.escape(message)):
        divide([0, 0, 1, 1], NAMES, **changes)


def test_a_class_with_one_example_cannot_be_in_folds() -> None:
    labels, names = examples([10, 10, 1])
    with pytest.raises(errors.UserError, match="so that 'train' always has one, but class 2 has 1"):
        divide(labels, names, folds=3)


def test_a_name_of_two_examples_is_an_error() -> None:
    with pytest.raises(errors.UserError, match=r"2 examples have the name 'a/1\.png'"):
        divide([0, 1, 0, 1], ["a/1.png", "b/1.png", "a/1.png", "b/2.png"])


def test_no_example_is_an_error() -> None:
    with pytest.raises(errors.UserError, match="there is no example to divide"):
        divide([], [])
