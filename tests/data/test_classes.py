"""Tests of sources with some of the classes of another source."""

import numpy as np
import pytest

from cnn_jax import data, errors, plan
from cnn_jax.contracts import Source
from cnn_jax.data.sources import classes

LABELS = {"train": [0, 1, 2, 0, 2, 1], "test": [1, 1], "validation": [2, 0]}


def whole() -> Source:
    """Returns a source of 1x1 pixels whose values are the numbers of the examples."""
    return data.from_arrays(
        {
            split: (np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1), labels)
            for split, labels in LABELS.items()
        },
        ["cat", "dog", "owl"],
    )


def test_the_examples_of_the_classes_stay_in_order_with_new_labels() -> None:
    kept = classes.keep(whole(), ["owl", "cat"])
    assert kept.class_names == ("owl", "cat")
    train = kept.splits["train"]
    assert len(train) == 4
    assert train.labels().tolist() == [1, 0, 1, 0]
    examples = [train[index] for index in range(4)]
    assert [int(example["image"][0, 0, 0]) for example in examples] == [0, 2, 3, 4]
    assert [example["label"] for example in examples] == [1, 0, 1, 0]
    assert [train.name(index) for index in range(4)] == [
        f"train, image {number}" for number in (0, 2, 3, 4)
    ]


def test_a_split_without_these_classes_is_left_out() -> None:
    assert set(classes.keep(whole(), ["owl", "cat"]).splits) == {"train", "validation"}
    assert set(classes.keep(whole(), ["dog"]).splits) == {"train", "test"}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "owll"], "unknown class in data.classes 'owll'; did you mean 'owl'?"),
        (["cat", "cat"], "data.classes has 'cat' twice"),
    ],
)
def test_wrong_names_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        classes.keep(whole(), names)


def test_the_key_keeps_classes_of_any_source() -> None:
    keys = plan.read({"data": {"source": "digits", "classes": "7, 1"}}).data
    source = data.open_source(keys)
    assert source.class_names == ("7", "1")
    assert set(source.splits["test"].labels().tolist()) == {0, 1}
