"""Stratified splits: exact counts, seeds, folds and groups."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnn_jax.data import stratified
from tests.data.divisions import counts, divide, examples, write_table

STAMPS = Path("/usr/share/tuxpaint/stamps")
SHARES = [
    (0.8, 0.1, 0.1),
    (0.6, 0.2, 0.2),
    (0.2, 0.4, 0.4),
    (1 / 3, 1 / 3, 1 / 3),
    (0.333333, 0.333333, 0.333333),
    (0.05, 0.05, 0.9),
    (0.7, 0.3, 0.0),
    (0.9, 0.0, 0.1),
    (1.0, 0.0, 0.0),
]
TRIALS = settings(max_examples=50, derandomize=True, deadline=None)
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**32 - 1)


@TRIALS
@given(SIZES, st.sampled_from(SHARES), SEEDS)
def test_each_example_is_in_one_split_and_counts_follow_the_shares(
    sizes: list[int], shares: tuple[float, ...], seed: int
) -> None:
    used = [share for share in shares if share]
    assume(max(sizes) >= len(used))
    labels, names = examples(sizes)
    parts = divide(labels, names, shares=shares, seed=seed)
    assert list(parts) == [
        split for split, share in zip(stratified.SPLITS, shares, strict=True) if share
    ]
    assert sorted(itertools.chain(*parts.values())) == list(range(len(labels)))
    found = counts(parts, labels)
    assert np.all(found[:, 0] >= 1)
    quotas = np.outer(sizes, np.array(used) / sum(used))
    for size, row, quota in zip(sizes, found, quotas, strict=True):
        if size >= len(used):
            assert np.all(row >= 1)
        if np.all(quota >= 1):
            assert np.all(np.abs(row - quota) < 1 + 1e-9)
    if np.all(quotas >= 1):
        assert np.all(np.abs(found.sum(axis=0) - quotas.sum(axis=0)) < 1 + 1e-9)


@pytest.mark.parametrize(
    ("sizes", "shares", "expected"),
    [
        ([100, 50, 10], (0.8, 0.1, 0.1), [[80, 10, 10], [40, 5, 5], [8, 1, 1]]),
        # Quotas 12, 1.5, 1.5: the classes round up in turn.
        ([15, 15], (0.8, 0.1, 0.1), [[12, 2, 1], [12, 1, 2]]),
        # Quotas 5.4, 1.8, 1.8: some classes round 'train' up, so that the totals are right.
        ([9] * 5, (0.6, 0.2, 0.2), [[6, 1, 2], [6, 2, 1], *[[5, 2, 2]] * 3]),
        # One in each split, although the quotas are 2.4, 0.3, 0.3.
        ([3, 3], (0.8, 0.1, 0.1), [[1, 1, 1], [1, 1, 1]]),
        # Too small for each split: 'train' first.
        ([1, 2, 10], (0.2, 0.4, 0.4), [[1, 0, 0], [1, 1, 0], [2, 4, 4]]),
        ([0, 10], (0.8, 0.1, 0.1), [[0, 0, 0], [8, 1, 1]]),
    ],
)
def test_exact_counts(sizes: list[int], shares: tuple[float, ...], expected: list[Any]) -> None:
    labels, names = examples(sizes)
    found = counts(divide(labels, names, shares=shares), labels)
    assert found.tolist() == expected


@TRIALS
@given(SIZES, SEEDS, st.sampled_from(["", r"(\d)\.png"]), st.sampled_from([0, 2]), st.randoms())
def test_the_order_of_examples_does_not_matter(
    sizes: list[int], seed: int, groups: str, folds: int, random: Any
) -> None:
    assume(min(sizes) >= 6)
    labels, names = examples(sizes)
    order = list(range(len(labels)))
    random.shuffle(order)
    options: dict[str, Any] = {"seed": seed, "groups": groups, "folds": folds}
    one = divide(labels, names, **options)
    two = divide([labels[i] for i in order], [names[i] for i in order], **options)
    assert one.keys() == two.keys()
    for split, part in one.items():
        assert {names[i] for i in part} == {names[order[i]] for i in two[split]}


def test_splits_are_the_same_in_every_version() -> None:
    labels, names = examples([10, 5])
    assert divide(labels, names, shares=(0.6, 0.2, 0.2), seed=7) == {
        "train": [1, 2, 3, 5, 6, 8, 10, 13, 14],
        "validation": [4, 9, 12],
        "test": [0, 7, 11],
    }


def test_another_seed_gives_another_division() -> None:
    labels, names = examples([50, 50])
    divisions = {str(divide(labels, names, seed=seed)) for seed in range(20)}
    assert len(divisions) == 20


def test_names_may_be_a_function() -> None:
    labels, names = examples([10, 20])
    assert divide(labels, names.__getitem__) == divide(labels, names)


@TRIALS
@given(st.integers(20, 60), SEEDS)
def test_a_new_example_moves_few_others(size: int, seed: int) -> None:
    labels, names = examples([size, 30])
    before = divide(labels, names, seed=seed)
    after = divide([*labels, 0], [*names, "0/new.png"], seed=seed)
    places = [
        {names[i]: split for split, part in parts.items() for i in part if i < len(names)}
        for parts in (before, after)
    ]
    assert sum(places[0][name] != places[1][name] for name in names) <= 4


@TRIALS
@given(SIZES, SEEDS)
def test_the_share_of_validation_hardly_changes_test(sizes: list[int], seed: int) -> None:
    sizes = [size * 10 for size in sizes]
    labels, names = examples(sizes)
    one = divide(labels, names, seed=seed, shares=(0.8, 0.1, 0.1))
    two = divide(labels, names, seed=seed, shares=(0.6, 0.3, 0.1))
    assert one["test"] == two["test"]


@TRIALS
@given(SIZES, SEEDS, st.integers(2, 8), st.sampled_from([0.0, 0.1, 0.5]))
def test_folds_cover_all_examples_outside_test(
    sizes: list[int], seed: int, folds: int, test: float
) -> None:
    sizes = [size + 1 for size in sizes]
    labels, names = examples(sizes)
    assume(sum(sizes) * (1 - test) >= folds + 1 and (max(sizes) > 2 or not test))
    runs = [
        divide(labels, names, seed=seed, shares=(1 - test, 0.0, test), folds=folds, fold=fold)
        for fold in range(folds)
    ]
    for parts in runs:
        assert parts.get("test") == runs[0].get("test")
        assert sorted(itertools.chain(*parts.values())) == list(range(len(labels)))
        assert set(np.array(labels)[parts["train"]]) == set(labels)
    covered = [*(parts["validation"] for parts in runs), runs[0].get("test", [])]
    assert sorted(itertools.chain(*covered)) == list(range(len(labels)))
    table = np.stack([counts(parts, labels)[:, 1] for parts in runs])
    assert np.ptp(table, axis=0).max() <= 1
    assert np.ptp(table.sum(axis=1)) <= 1


def test_folds_ignore_the_share_of_validation() -> None:
    labels, names = examples([40, 20])
    one = divide(labels, names, shares=(0.8, 0.1, 0.1), folds=4, fold=2)
    assert one == divide(labels, names, shares=(0.4, 0.5, 0.1), folds=4, fold=2)
    assert counts(one, labels).tolist() == [[27, 9, 4], [14, 4, 2]]


MEMBERS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 15)), min_size=12, max_size=80
)  # class and group of each example


def grouped(members: Sequence[tuple[int, int]]) -> tuple[list[int], list[str]]:
    names = [f"{label}/person{group}_{i}.png" for i, (label, group) in enumerate(members)]
    return [label for label, _ in members], names


@TRIALS
@given(MEMBERS, SEEDS, st.sampled_from(SHARES))
def test_a_group_is_in_one_split(
    members: list[tuple[int, int]], seed: int, shares: tuple[float, ...]
) -> None:
    kinds = {label for label, _ in members}
    assume(len({group for _, group in members}) >= 3 + len(kinds))
    labels, names = grouped(members)
    parts = divide(labels, names, seed=seed, shares=shares, groups=r"person\d+")
    assert sorted(itertools.chain(*parts.values())) == list(range(len(labels)))
    assert all(parts.values())
    assert set(np.array(labels)[parts["train"]]) == set(labels)
    owners = [{members[i][1] for i in part} for part in parts.values()]
    assert sum(map(len, owners)) == len(set().union(*owners))


@TRIALS
@given(st.integers(1, 3), MEMBERS, SEEDS, st.integers(2, 5), st.sampled_from([0.0, 0.2]))
def test_a_group_is_in_one_fold(
    kinds: int, others: list[tuple[int, int]], seed: int, folds: int, test: float
) -> None:
    members = [(group % kinds, group) for group in range(4 * kinds)]
    members += [(label % kinds, group) for label, group in others]
    assume(len({group for _, group in members}) >= 2 * folds)
    labels, names = grouped(members)
    options: dict[str, Any] = {"seed": seed, "shares": (1 - test, 0.0, test), "folds": folds}
    runs = [
        divide(labels, names, groups=r"person(\d+)_", fold=fold, **options) for fold in range(folds)
    ]
    covered = [*(parts["validation"] for parts in runs), runs[0].get("test", [])]
    assert sorted(itertools.chain(*covered)) == list(range(len(labels)))
    for parts in runs:
        assert parts.get("test") == runs[0].get("test")
        assert parts["validation"]
        inside = {members[i][1] for i in parts["validation"]}
        assert not inside & {members[i][1] for i in parts["train"]}
        assert set(np.array(labels)[parts["train"]]) == set(labels)


def test_groups_of_one_size_are_divided_exactly() -> None:
    members = [(label, 10 * label + group) for label in range(3) for group in range(10)] * 4
    labels, names = grouped(members)
    found = counts(divide(labels, names, groups=r"person\d+"), labels)
    assert found.tolist() == [[32, 4, 4]] * 3


def test_groups_of_several_classes_keep_the_shares_of_each() -> None:
    random = np.random.default_rng(0)
    members = [
        (int(label), group)
        for group in range(100)
        for label in random.choice(3, random.integers(1, 12), p=(0.6, 0.3, 0.1))
    ]
    labels, names = grouped(members)
    found = counts(divide(labels, names, groups=r"person\d+"), labels)
    share = found / found.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(share, [[0.8, 0.1, 0.1]] * 3, atol=0.03)


def test_a_class_in_one_group_is_trained_on() -> None:
    members = [(0, group) for group in range(30)] * 4 + [(1, 30)] * 20
    labels, names = grouped(members)
    parts = divide(labels, names, groups=r"person\d+", shares=(0.1, 0.45, 0.45))
    assert counts(parts, labels)[1].tolist() == [20, 0, 0]


def test_the_first_group_of_a_pattern_or_the_whole_match_is_the_group() -> None:
    labels, names = grouped([(0, group) for group in range(12)] * 3)
    whole = divide(labels, names, groups=r"person\d+")
    assert divide(labels, names, groups=r"person(\d+)_(\d+)") != {}
    table = {name: re.findall(r"person\d+", name)[0] for name in names}
    assert {table[names[i]] for i in whole["test"]}.isdisjoint(
        table[names[i]] for i in whole["train"]
    )


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_gives_the_same_groups_as_a_pattern(tmp_path: Path, encoding: str) -> None:
    members = [(i % 3, i // 5) for i in range(100)]
    labels, names = grouped(members)
    names[7] = '0/pérson1, "7"\udcff.png'
    rows = [
        f'person{group},"{name.replace(chr(34), chr(34) * 2)}",note'
        for name, (_, group) in zip(names, members, strict=True)
    ]
    unused = "person1,not/there.png,"
    table = write_table(tmp_path / "g.CSV", ["group,name,note", unused, *rows[::-1]], encoding)
    names_by_pattern = [name.replace("pérson1, ", "person1_") for name in names]
    by_pattern = divide(labels, names_by_pattern, groups=r"person\d+")
    assert divide(labels, names, groups=table) == by_pattern


@pytest.mark.skipif(not STAMPS.is_dir(), reason="needs Debian's tuxpaint-stamps-default")
def test_a_real_folder_by_its_innermost_folders() -> None:
    files = sorted(path.relative_to(STAMPS) for path in STAMPS.rglob("*.png"))
    names, kinds = [str(path) for path in files], sorted({path.parts[0] for path in files})
    labels = [kinds.index(path.parts[0]) for path in files]
    found = counts(divide(labels, names, shares=(0.7, 0.15, 0.15)), labels)
    quotas = np.outer(found.sum(axis=1), (0.7, 0.15, 0.15))
    assert np.all(np.abs(found - quotas)[quotas.min(axis=1) >= 1] < 1)
    parts = divide(labels, names, shares=(0.7, 0.15, 0.15), groups=r"(.*)/")
    folders = [{files[i].parent for i in part} for part in parts.values()]
    assert sum(map(len, folders)) == len({path.parent for path in files})
    assert set(np.array(labels)[parts["train"]]) == set(labels)
    np.testing.assert_allclose([len(part) for part in parts.values()], quotas.sum(axis=0), rtol=0.3)
