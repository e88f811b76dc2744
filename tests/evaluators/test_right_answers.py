"""Tests of labels from files: several right answers, and subsets of the classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import errors, limits
from cnn_jax.data import imagenet
from cnn_jax.evaluators import right_answers, scores

CLASSES = 8
LISTS = [[3], [], [1, 4], [0, 2, 7], [5, 5], []]
NAMES = ("cat", "dog", "bird", "fish", "cow", "horse", "ant", "bee")


def rows(size: int = len(LISTS), num_classes: int = CLASSES) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(size, num_classes))


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "real.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def names(size: int = len(LISTS)) -> list[str]:
    return [f"picture {index}" for index in range(size)]


def read(tmp_path: Path, content: Any = LISTS, **changed: Any) -> right_answers.Answers:
    settings = {"names": names(), "num_classes": CLASSES, **changed}
    return right_answers.read_answers(written(tmp_path, content), **settings)


def test_an_example_is_right_by_any_of_its_answers(tmp_path: Path) -> None:
    answers, logits = read(tmp_path), rows()
    # The example code of google-research/reassessed-imagenet.
    predictions = logits.argmax(-1)
    right = [label in LISTS[i] for i, label in enumerate(predictions) if LISTS[i]]
    np.testing.assert_array_equal(answers.ranks(logits) < 1, right)
    assert answers.counted.tolist() == [True, False, True, True, True, False]
    # timm's RealLabelsImagenet: any of the first k predictions is in the list.
    order = np.argsort(-logits, -1)
    top5 = [bool(set(order[i, :5]) & set(LISTS[i])) for i in range(len(LISTS)) if LISTS[i]]
    assert answers.summary(logits) == {"real_top1": np.mean(right), "real_top5": np.mean(top5)}


def test_one_answer_for_each_example_is_plain_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_BLOCK_VALUES", 7 * CLASSES)
    logits = np.random.default_rng(1).integers(0, 3, (100, CLASSES)).astype(np.float32)
    labels = np.random.default_rng(2).integers(0, CLASSES, 100)
    lists = [[int(label)] for label in labels]
    answers = read(tmp_path, lists, names=names(100), labels=labels)
    expected = scores.per_example(logits, labels)
    np.testing.assert_array_equal(answers.ranks(logits), expected.rank)
    assert answers.agreement(labels) == 1


def test_the_file_names_of_imagenet_find_their_lists(tmp_path: Path) -> None:
    # The first list is that of ILSVRC2012_val_00000001.JPEG. Folders have another order.
    numbers = (4, 1, 3)
    named = [f"n01440764/ILSVRC2012_val_{number:08d}.JPEG" for number in numbers]
    answers = read(tmp_path, names=named)
    assert answers.size == 3
    expected = [
        (place, label) for place, number in enumerate(numbers) for label in LISTS[number - 1]
    ]
    assert list(zip(answers.examples, answers.labels, strict=True)) == expected


@pytest.mark.parametrize(
    ("content", "changed", "message"),
    [
        (LISTS[:5], {}, r"real\.json has 5 lists, but the split has 6 examples"),
        (LISTS, {"names": ["ILSVRC2012_val_00000007"]}, "has 6 lists, but none for 'ILSVRC2012_"),
        (LISTS, {"names": ["ILSVRC2012_val_00000000"]}, "none for 'ILSVRC2012_val_00000000'"),
        (LISTS, {"names": ["ILSVRC2012_val_00000001", "x"]}, "1 of 2 examples .* but 'x' is not"),
        (LISTS, {"num_classes": 7}, "list 3 has 7, which is not a class index in 0 to 6"),
        ([[-1]], {}, "list 0 has -1"),
        ([[1.0]], {}, "list 0 has 1.0"),
        ([[True]], {}, "list 0 has True"),
        ([["cat"]], {}, "list 0 has 'cat'"),
        ([3], {}, "entry 0 is 3"),
        ({"a": [3]}, {}, "holds dict, not a list"),
        ("[[1], [2", {}, "is not JSON"),
        ("[" * 100_000, {}, "is nested too deeply"),
        ([[]] * 6, {}, "no right answer for any of 6 examples"),
        (LISTS, {"labels": np.full(6, 6)}, r"only 0\.0% of the examples .* in another order"),
    ],
)
def test_wrong_files_of_answers_are_named(
    tmp_path: Path, content: Any, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        read(tmp_path, content, **changed)


def test_files_that_cannot_be_read_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.UserError, match=r"there is no file .*absent"):
        right_answers.read_answers(tmp_path / "absent", names=[], num_classes=2)
    with pytest.raises(errors.UserError, match=r"there is no file .*absent"):
        right_answers.read_subset(tmp_path / "absent", NAMES)
    monkeypatch.setattr(limits, "MAX_JSON_BYTES", 10)
    with pytest.raises(errors.UserError, match="more than the limit of 10"):
        read(tmp_path)


def test_logits_of_other_examples_are_refused(tmp_path: Path) -> None:
    answers = read(tmp_path)
    with pytest.raises(errors.UserError, match=r"6 examples and 8 classes, .* shape \[5, 8\]"):
        answers.ranks(rows(5))
    with pytest.raises(errors.UserError, match=r"row 0 .* holds nan"):
        answers.ranks(np.full((6, 8), np.nan))


def subset(tmp_path: Path, text: str, class_names: Any = NAMES) -> right_answers.Subset:
    path = tmp_path / "classes.txt"
    path.write_bytes(text.encode("utf-8"))
    return right_answers.read_subset(path, class_names)


@pytest.mark.parametrize("text", ["bee\nfish\ndog\n", "7\n3\n1\n", "\ufeffbee\r\n\r\n fish\r\ndog"])
def test_a_subset_keeps_the_logits_of_its_classes(tmp_path: Path, text: str) -> None:
    found, logits = subset(tmp_path, text), rows()
    assert found.class_names == ("bee", "fish", "dog")
    np.testing.assert_array_equal(found.logits(logits), logits[:, [7, 3, 1]])
    labels = np.array([1, 7, 0, 3, 7])
    np.testing.assert_array_equal(found.contains(labels), [True, True, False, True, True])
    kept = labels[found.contains(labels)]
    np.testing.assert_array_equal(found.labels(kept), [2, 0, 1, 0])
    with pytest.raises(errors.UserError, match=r"label 0 of row 2 .* among the 3 .*; 1 of 5 are"):
        found.labels(labels)


def test_the_softmax_of_a_subset_is_over_its_classes_alone(tmp_path: Path) -> None:
    found = subset(tmp_path, "cat\nbee\n")
    logits = np.log([[0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.3]])
    scored = scores.per_example(found.logits(logits), np.array([1]))
    assert scored.confidence[0] == pytest.approx(0.75)
    assert scored.right().all()


def test_synsets_and_english_names_are_the_same_classes(tmp_path: Path) -> None:
    synsets, english = zip(*imagenet.classes().items(), strict=True)
    chosen = [999, 0, 388]
    text = "\n".join(synsets[index] for index in chosen)
    for class_names in (english, synsets):
        found = subset(tmp_path, text, class_names)
        assert found.indices.tolist() == chosen
        named = right_answers.subset_of([english[index] for index in chosen], class_names)
        np.testing.assert_array_equal(named.indices, chosen)
        assert named.class_names == tuple(class_names[index] for index in chosen)


def test_numbers_that_are_class_names_are_names(tmp_path: Path) -> None:
    assert subset(tmp_path, "9\n8\n", ("7", "8", "9")).indices.tolist() == [2, 1]
    assert subset(tmp_path, "0\n2\n", ("7", "8", "9")).indices.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat\ndogg\n", r"classes\.txt, line 2: unknown class 'dogg'; nearest: dog"),
        ("1\n\n8\n", r"line 3: '8' is not a class index in 0 to 7"),
        ("1\n-1\n", "line 1: unknown class '1'"),
        (f"1\n{'9' * 5000}\n", "line 2: '9+\\.\\.\\. is not a class index"),
        ("cat\ndog\ncat\n", r"line 3 repeats class 0, 'cat', of .*, line 1"),
        ("cat\n", "has 1 classes; a subset needs two at least"),
        ("", "has 0 classes"),
    ],
)
def test_wrong_subsets_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        subset(tmp_path, text)


def test_other_wrong_subsets_are_named(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(errors.UserError, match="is no text in UTF-8"):
        right_answers.read_subset(tmp_path / "latin.txt", NAMES)
    with pytest.raises(errors.UserError, match="class 1 of the data set: unknown class 'wolf'"):
        right_answers.subset_of(["cat", "wolf"], NAMES)
    with pytest.raises(errors.UserError, match=r"of 8 classes, but the logits have shape \[6, 3\]"):
        right_answers.subset_of(["cat", "dog"], NAMES).logits(rows(num_classes=3))
