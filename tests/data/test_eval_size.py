"""Tests of `data.eval_image_size`: evaluation at another size than training."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import data, errors, losses, plan, train
from cnn_jax.contracts import Description, Source
from cnn_jax.data import resident
from cnn_jax.evaluators import of_run
from cnn_jax.objectives import Classification, eval_size
from cnn_jax.runs import workdir
from cnn_jax.runtime import sharding
from tests import figures
from tests.feeds import MOMENTS, WHOLE, bind, check_equal, evaluated, make_plan, numbered
from tests.toys import Own

pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]
KEYS: dict[str, Any] = {**WHOLE, **MOMENTS, "validation_split": "train[:24]"}
CENTRE: dict[str, Any] = {"storage": "streamed", "eval_crop": "centre", "shorter_side": 28}
RUN: dict[str, Any] = {
    "model.name": "tests.toys:Pooled",
    "data.image_size": 8,
    "data.eval_image_size": 12,
    "data.channels": 3,
    "data.resize": "bilinear",
    "data.train_split": "train",
    "data.validation_split": "train[:12]",
    "data.test_split": "",
    "train.batch_size": 8,
    "train.epochs": 2.0,
}


@pytest.fixture(autouse=True)
def without_figures() -> Iterator[None]:
    """Lets runs and evaluations draw nothing."""
    with figures.stand_in():
        yield


@pytest.fixture(scope="module")
def source() -> Source:
    return numbered(32)


@pytest.mark.parametrize(
    ("keys", "train_crop"), [({"storage": "resident"}, "pad"), (CENTRE, "random_resized")]
)
def test_batches_are_those_of_a_run_at_each_size(
    source: Source, keys: dict[str, Any], train_crop: str
) -> None:
    keys = {**KEYS, **keys}
    both = bind(source, eval_image_size=24, train_crop=train_crop, **keys)
    small = bind(source, train_crop=train_crop, **keys)
    large = bind(source, image_size=24, **keys)
    assert both.description.input_shape == (16, 16, 3)
    assert both.description.eval_shape == large.description.input_shape == (24, 24, 3)
    for split in ("validation", "train"):
        check_equal(evaluated(both, split, 10), evaluated(large, split, 10))
    pairs = zip(data.train_batches(both, 0), data.train_batches(small, 0), strict=True)
    for found, expected in itertools.islice(pairs, 2):
        check_equal(found, expected)
    for feed in (both, small, large):
        feed.close()


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_other_sets_are_evaluated_at_the_size_of_evaluation(source: Source, storage: str) -> None:
    plan_ = make_plan(storage=storage, eval_image_size=24, **KEYS)
    layout = sharding.make_layout()
    description = data.bind(source, plan_, layout).description
    feed = data.bind_evaluation(source, {"part": "train[:5]"}, plan_, layout, description)
    expected = bind(source, storage=storage, image_size=24, **{**KEYS, "test_split": "train[:5]"})
    check_equal(evaluated(feed, "part", 5), evaluated(expected, "test", 5))


def test_an_equal_size_is_no_other_size(source: Source) -> None:
    description = bind(source, eval_image_size=16, **KEYS).description
    assert description == bind(source, **KEYS).description
    assert description.eval_size is None


def test_the_larger_size_decides_where_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    source = numbered(32)
    monkeypatch.setattr(resident, "MAX_RESIDENT_BYTES", 56 * 20 * 20 * 3)
    sizes = {size: make_plan(storage="auto", eval_image_size=size, **KEYS) for size in (0, 20, 21)}
    found = {size: data.resolve(plan_, source).data.storage for size, plan_ in sizes.items()}
    assert found == {0: "resident", 20: "resident", 21: "streamed"}


@pytest.mark.parametrize(
    ("keys", "least"),
    [
        ({"train_crop": "random_resized", "image_size": 32}, 24),
        ({"train_crop": "random", "image_size": 16}, 24),
        ({"train_crop": "random", "image_size": 32}, 32),
        ({"train_crop": "random", "image_size": 20, "eval_crop": "fit"}, 20),
    ],
)
def test_the_shorter_side_covers_the_crops_that_it_is_for(keys: dict[str, Any], least: int) -> None:
    keys = {"eval_image_size": 24, **CENTRE, **keys}
    data.check(make_plan(**{**keys, "shorter_side": least}).data)
    with pytest.raises(errors.UserError, match=f"shorter_side must be at least {least} pixels"):
        data.check(make_plan(**{**keys, "shorter_side": least - 1}).data)


@pytest.mark.parametrize("key", ["image_size", "eval_image_size"])
def test_an_input_that_no_work_directory_may_have_is_refused(key: str) -> None:
    with pytest.raises(errors.UserError, match=r"at most 50,331,648 values, got 5000x5000x3"):
        data.check(make_plan(**{**KEYS, key: 5000}).data)


def test_a_run_validates_and_predicts_at_the_size_of_evaluation(
    source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train.run(plan.read(RUN), source=source)
    assert "8x8x3 (12x12 in evaluation), 32 classes" in capsys.readouterr().err
    predictor = outcome.predictor
    pictures = [source.splits["train"][index]["image"] for index in range(12)]
    assert predictor.preprocess(pictures).shape == (12, 12, 12, 3)
    right = (predictor(pictures).logits.argmax(-1) == np.arange(12)).mean()
    assert right == max(row["top1"] for row in outcome.history if row["split"] == "validation")


@pytest.mark.slow
def test_a_work_directory_keeps_the_size_and_is_evaluated_at_any_other(
    source: Source, tmp_path: Path
) -> None:
    directory = tmp_path / "run"
    outcome = train.run(plan.read(RUN), directory, source=source, progress=False)
    description = json.loads((directory / workdir.DATASET).read_text())
    assert (description["input_shape"], description["eval_size"]) == ([8, 8, 3], [12, 12])
    again = train.run(plan.read(RUN), directory, source=source, progress=False)
    assert again.params_sha256 == outcome.params_sha256
    usual = plan.to_dict(workdir.load_plan(directory))

    def evaluate(size: int, split: str = "validation") -> of_run.Evaluation:
        settings = plan.read({**usual, "data.eval_image_size": size})
        return of_run.run(*(directory, split, "last"), settings=settings, source=source, trust=True)

    found = evaluate(12)
    assert found.path.name == "evaluation-validation-last.json"
    assert found.values == {name: outcome.validation[name] for name in found.values}
    small, same, large = evaluate(0), evaluate(8), evaluate(20)
    assert small.values == same.values != found.values != large.values
    assert len({each.path.name for each in (found, small, same, large)}) == 4
    np.testing.assert_equal(evaluate(20, "train[:12]").values, large.values)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tests.toys:Own", r"params/Dense_0/kernel would be \[6912, 2\].* it is \[3072, 2\]"),
        ("vit_tiny_patch16_224", r"params/pos_embed would be \[1, 10, 192\].* it is \[1, 5, 192\]"),
    ],
)
def test_networks_for_one_size_are_refused_before_any_work(name: str, message: str) -> None:
    sizes = {"data.image_size": 32, "data.eval_image_size": 48}
    with pytest.raises(errors.UserError, match=message):
        train.check(plan.read({**RUN, **sizes, "model.name": name, "data.source": "digits"}))


class Auxiliary(Own):
    """A network whose auxiliary head depends on the size of the images, as GoogLeNet's."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        if self.is_initializing():
            nn.Dense(self.num_classes, name="head")(images.reshape(len(images), -1))
        return nn.Dense(self.num_classes)(images.mean((1, 2)))


def test_auxiliary_heads_may_depend_on_the_size() -> None:
    description = Description(("a", "b"), None, (8, 8, 3), (), (), eval_size=(12, 12))
    eval_size.check(Classification(Auxiliary(num_classes=2), losses.make(plan.Loss())), description)
