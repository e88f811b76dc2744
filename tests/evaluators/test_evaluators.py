"""Tests of evaluators over a whole split, on a small feed of arrays."""

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, evaluators, limits, plan
from cnn_jax.contracts import Batch, Description, Evaluator, Inputs, Outputs, Result, Variables
from cnn_jax.evaluators import classification, scores
from cnn_jax.objectives import Classification
from cnn_jax.runtime import sharding
from cnn_jax.train import state
from tests.toys import CROSS_ENTROPY, Dense

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("evaluators")

LAYOUT = sharding.make_layout()
SHAPE = (2, 2, 1)
CLASSES = 10
SIZES = {"train": 9, "validation": 5, "test": 7}
DESCRIPTION = Description(tuple(map(str, range(CLASSES))), SHAPE[:2], SHAPE, (0.0,), (1.0,))


@dataclasses.dataclass
class ArrayFeed:
    """Feed of random images; padding of a batch repeats its first example with weight 0.

    Attributes:
      dropped: the number of examples at the end of each split that are left out.
      read: the splits that were read, in order.
    """

    dropped: int = 0
    read: list[str] = dataclasses.field(default_factory=list)
    description: Description = DESCRIPTION
    steps_per_epoch: int = 1

    @property
    def splits(self) -> Collection[str]:
        return SIZES

    def size(self, split: str) -> int:
        if split not in SIZES:
            raise errors.unknown("split", split, SIZES)
        return SIZES[split]

    def arrays(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns images and labels of a split."""
        rng = np.random.default_rng(len(split))
        images = rng.normal(size=(SIZES[split], *SHAPE)).astype(np.float32)
        return images, rng.integers(0, CLASSES, SIZES[split]).astype(np.int32)

    def train_inputs(self, calls: Iterable[range]) -> Iterator[tuple[range, Inputs]]:
        raise NotImplementedError

    def train_batch(self, inputs: Inputs, index: jax.Array | int, key: jax.Array) -> Batch:
        raise NotImplementedError

    def eval_inputs(self, split: str, batch_size: int) -> Iterator[Inputs]:
        self.read.append(split)
        images, labels = self.arrays(split)
        kept = SIZES[split] - self.dropped
        for start in range(0, kept, batch_size):
            places = np.arange(start, start + batch_size)
            inside = places < kept
            indices = np.where(inside, places, start)
            weight = inside.astype(np.float32)
            yield {"image": images[indices], "label": labels[indices], "weight": weight}

    def eval_batch(self, inputs: Inputs) -> Batch:
        return {name: jnp.asarray(part) for name, part in inputs.items()}

    def close(self) -> None:
        raise NotImplementedError


def logits(variables: Variables, images: Any) -> Any:
    return images.reshape(len(images), -1) @ variables["params"]["kernel"]


def predict(variables: Variables, batch: Batch) -> Outputs:
    return {"logits": logits(variables, batch["image"])}


VARIABLES = {
    "params": {"kernel": np.random.default_rng(0).normal(size=(4, CLASSES)).astype(np.float32)},
    "batch_stats": {},
}


@pytest.fixture(scope="module")
def evaluate() -> evaluators.Evaluate:
    """Returns the evaluator of classifiers, compiled once for all tests."""
    return evaluators.prepare(predict, ArrayFeed(), classification.make(), LAYOUT)


@pytest.mark.parametrize("split", SIZES)
@pytest.mark.parametrize("batch_size", [2, 10])
def test_every_example_counts_once_and_padding_never(
    evaluate: evaluators.Evaluate, split: str, batch_size: int
) -> None:
    before = jax.tree.map(np.copy, VARIABLES)
    result = evaluate(VARIABLES, split, batch_size)
    images, labels = ArrayFeed().arrays(split)
    expected = logits(VARIABLES, images)
    predicted = expected.argmax(-1)
    values, confusion = result.values, result.details["confusion"]
    assert set(values) == {"loss", "top1", "top5"}
    assert values["top1"] == (labels == predicted).sum() / SIZES[split]
    assert confusion.sum() == SIZES[split]
    assert all(confusion[pair] >= 1 for pair in zip(labels, predicted, strict=True))
    own = expected[np.arange(len(labels)), labels]
    losses = np.log(np.exp(expected.astype(np.float64)).sum(-1)) - own
    np.testing.assert_allclose(values["loss"], losses.mean(), rtol=1e-5)
    ranks = (expected > own[:, None]).sum(-1)
    assert values["top5"] == (ranks < 5).sum() / SIZES[split]
    assert result.fitted is None
    assert state.sha256(VARIABLES) == state.sha256(before)


def test_examples_of_weight_zero_count_in_no_metric() -> None:
    images, labels = ArrayFeed().arrays("test")
    weight = np.array([1, 1, 0, 1, 0, 0, 1], np.float32)
    kept = weight == 1
    outputs = {"logits": jnp.asarray(logits(VARIABLES, images))}
    batch = {"label": jnp.asarray(labels), "weight": jnp.asarray(weight)}
    part = jax.device_get(classification.make().measure(outputs, batch))
    predicted = np.asarray(outputs["logits"]).argmax(-1)[kept]
    assert float(part["sums"]["top1"][0]) == (labels[kept] == predicted).sum()
    assert float(part["sums"]["top1"][1]) == 4
    expected = np.stack([labels[kept], predicted, np.ones(4, np.int32)], -1)
    np.testing.assert_array_equal(part["outcomes"][kept], expected)
    np.testing.assert_array_equal(part["outcomes"][~kept, 2], 0)
    losses = -jax.nn.log_softmax(outputs["logits"])[np.arange(7), labels]
    np.testing.assert_allclose(part["sums"]["loss"][0], losses[kept].sum(), rtol=1e-5)


def test_progress_is_reported_from_no_batch_to_all(evaluate: evaluators.Evaluate) -> None:
    told: list[tuple[int, int]] = []
    evaluate(VARIABLES, "test", 2, lambda done, total: told.append((done, total)))
    assert told == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_unknown_split_is_refused(evaluate: evaluators.Evaluate) -> None:
    with pytest.raises(errors.UserError, match="unknown split 'tset'; did you mean 'test'"):
        evaluate(VARIABLES, "tset", 2)


def test_running_statistics_are_used_in_evaluation() -> None:
    objective = Classification(Dense(widths=(CLASSES,)), CROSS_ENTROPY)
    evaluate = evaluators.prepare(objective.predict, ArrayFeed(), classification.make(), LAYOUT)
    params, batch_stats, _ = objective.init(jax.random.key(0), {"image": jnp.zeros((1, *SHAPE))})
    moved = jax.tree.map(lambda leaf: leaf + 0.5, batch_stats)
    first, second = (
        evaluate({"params": params, "batch_stats": stats}, "test", 7)
        for stats in (batch_stats, moved)
    )
    assert first.values["loss"] != second.values["loss"]


def test_an_example_that_is_not_counted_is_an_error() -> None:
    evaluate = evaluators.prepare(predict, ArrayFeed(dropped=1), classification.make(), LAYOUT)
    with pytest.raises(RuntimeError, match="test has 7 examples, but 6 were counted"):
        evaluate(VARIABLES, "test", 3)


def make_centred(fit_split: str = "validation") -> Evaluator:
    """Returns an evaluator of the mean label minus the mean label of `fit_split`."""

    def mean(parts: Iterable[Any]) -> float:
        return float(np.concatenate(jax.device_get(list(parts))).mean())

    def measure(outputs: Outputs, batch: Batch) -> jax.Array:
        return batch["label"]

    def finish(parts: Iterable[Any], fitted: Any) -> Result:
        return Result({"centred": mean(parts) - fitted}, fitted=fitted)

    return Evaluator(measure, finish, names=("centred",), fit_split=fit_split, fit=mean)


def test_an_evaluator_with_fit_reads_its_split_first() -> None:
    feed = ArrayFeed()
    evaluate = evaluators.prepare(predict, feed, make_centred(), LAYOUT)
    result = evaluate(VARIABLES, "test", 1)
    assert feed.read == ["validation", "test"]
    fitted = feed.arrays("validation")[1].mean()
    assert result.fitted == pytest.approx(fitted)
    assert result.values == pytest.approx({"centred": feed.arrays("test")[1].mean() - fitted})


def test_values_of_other_evaluators_are_prefixed_with_their_name() -> None:
    some = {evaluators.MAIN: classification.make(), "centred-labels": make_centred()}
    for name in ("loss", "top1", "top5", "centred-labels/centred"):
        evaluators.check_monitor(name, some)
    with pytest.raises(errors.UserError, match=r"eval\.monitor 'centred'"):
        evaluators.check_monitor("centred", some)
    with pytest.raises(errors.UserError, match=r"set eval.weights=average, and .* to top1"):
        evaluators.check_monitor("average/top1", some)


def test_a_compiled_measurement_serves_several_feeds() -> None:
    traced = []

    def counting(variables: Variables, batch: Batch) -> Outputs:
        traced.append(batch["image"].shape)
        return predict(variables, batch)

    evaluator, values = classification.make(), []
    compiled = evaluators.measure(counting, ArrayFeed().eval_batch, evaluator, LAYOUT)
    for _ in range(2):
        evaluate = evaluators.prepare(counting, ArrayFeed(), evaluator, LAYOUT, compiled)
        values.append(evaluate(VARIABLES, "test", 7).values)
    assert traced == [(7, *SHAPE)]
    assert values[0] == values[1]


def test_rows_are_kept_in_order_without_padding() -> None:
    evaluator = classification.make(CLASSES, rows=True)
    details = evaluators.prepare(predict, ArrayFeed(), evaluator, LAYOUT)(
        VARIABLES, "test", 3
    ).details
    images, labels = ArrayFeed().arrays("test")
    np.testing.assert_array_equal(details["labels"], labels)
    np.testing.assert_allclose(details["logits"], logits(VARIABLES, images), rtol=1e-5, atol=1e-6)
    assert details["confusion"].sum() == SIZES["test"]


def test_rows_of_bfloat16_are_float32() -> None:
    def narrow(variables: Variables, batch: Batch) -> Outputs:
        return {"logits": predict(variables, batch)["logits"].astype(jnp.bfloat16)}

    evaluator = classification.make(CLASSES, rows=True)
    found = evaluators.prepare(narrow, ArrayFeed(), evaluator, LAYOUT)(VARIABLES, "test", 3)
    rows = found.details["logits"]
    assert rows.dtype == np.float32
    images, labels = ArrayFeed().arrays("test")
    np.testing.assert_allclose(rows, logits(VARIABLES, images), rtol=0.01, atol=0.01)
    assert scores.summary(rows, labels)["top1"] == found.values["top1"]


def test_counts_of_each_class_are_those_of_numpy() -> None:
    details = evaluators.prepare(predict, ArrayFeed(), classification.make(), LAYOUT)(
        VARIABLES, "train", 4
    ).details
    images, labels = ArrayFeed().arrays("train")
    right = labels == logits(VARIABLES, images).argmax(-1)
    for name, chosen in (("counts", labels), ("correct", labels[right])):
        expected = [(chosen == number).sum() for number in range(CLASSES)]
        np.testing.assert_array_equal(details[name], expected)
    np.testing.assert_array_equal(details["confusion"].sum(1), details["counts"])
    np.testing.assert_array_equal(details["confusion"].diagonal(), details["correct"])


@pytest.mark.parametrize("asked", [False, True])
def test_the_confusion_matrix_of_many_classes_is_made_on_request(
    monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    monkeypatch.setattr(limits, "MAX_CONFUSION_CLASSES", CLASSES - 1)
    evaluator = classification.make(CLASSES, confusion=asked)
    result = evaluators.prepare(predict, ArrayFeed(), evaluator, LAYOUT)(VARIABLES, "test", 3)
    assert ("confusion" in result.details) == asked
    assert result.details["counts"].sum() == SIZES["test"]


def test_a_measurement_holds_no_matrix_of_all_classes() -> None:
    num_classes, size = 10_000, 4
    outputs = {"logits": jax.ShapeDtypeStruct((size, num_classes), jnp.float32)}
    batch = {
        "label": jax.ShapeDtypeStruct((size,), jnp.int32),
        "weight": jax.ShapeDtypeStruct((size,), jnp.float32),
    }
    part = jax.eval_shape(classification.make(num_classes).measure, outputs, batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(part)) == 3 * size + 2 * 3 + 1


def test_given_evaluators_are_added_or_replace_those_of_the_run() -> None:
    own, centred = classification.make(), make_centred()
    found = evaluators.make(plan.Plan(), CLASSES, {"centred": centred, evaluators.MAIN: own})
    assert found == {evaluators.MAIN: own, "centred": centred}
    assert list(evaluators.make(plan.Plan(), CLASSES)) == [evaluators.MAIN]
    given: Any = {"mine": predict}
    with pytest.raises(
        errors.UserError, match=r"evaluators\['mine'\] must be a contracts.Evaluator, got function"
    ):
        evaluators.make(plan.Plan(), CLASSES, given)


def test_an_evaluator_with_the_name_of_the_average_is_refused() -> None:
    given = {"average": evaluators.make(plan.Plan())[evaluators.MAIN]}
    assert evaluators.label(evaluators.MAIN, "loss", "average") == "average/loss"
    assert evaluators.make(plan.Plan(), given=given).keys() == {evaluators.MAIN, "average"}
    with pytest.raises(errors.UserError, match="give the evaluator another name"):
        evaluators.make(plan.read({"ema.decay": 0.9}), given=given)


def test_a_split_without_a_readable_image_is_an_error() -> None:
    class Unreadable(ArrayFeed):
        def eval_batch(self, inputs: Inputs) -> Batch:
            batch = super().eval_batch(inputs)
            weight = batch["weight"]
            return {**batch, "weight": 0 * weight, "unreadable": weight}

    evaluate = evaluators.prepare(predict, Unreadable(), classification.make(), LAYOUT)
    with pytest.raises(errors.UserError, match="no image of test can be read"):
        evaluate(VARIABLES, "test", 3)


@pytest.mark.parametrize(
    ("monitor", "given", "expected"),
    [
        ("top1", "auto", "max"),
        ("loss", "auto", "min"),
        ("average/loss", "auto", "min"),
        ("loss", "max", "max"),
        ("top1", "min", "min"),
    ],
)
def test_a_loss_is_better_when_it_is_smaller(monitor: str, given: str, expected: str) -> None:
    assert evaluators.monitor_mode(monitor, given) == expected
