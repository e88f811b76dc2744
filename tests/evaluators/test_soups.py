"""Tests of soups, compared with NumPy and with the definition of greedy soups."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, evaluators, predictor, pretrained
from cnn_jax.contracts import Variables
from cnn_jax.evaluators import batch_statistics, soups
from cnn_jax.predictor import Predictor
from cnn_jax.runs import checkpoint, workdir
from tests.evaluators.members import CLASSES, MEAN, STD, Small, member, source

# In one process, so that members are trained once.
pytestmark = pytest.mark.xdist_group("members")

PLAIN = Small(norm=False)
HELD_OUT = 1200
SPLIT = f"train[{HELD_OUT}:]"


def check_equal(found: Variables, expected: Variables, rtol: float = 0) -> None:
    arrays = batch_statistics.leaves(dict(expected))
    assert batch_statistics.leaves(dict(found)).keys() == arrays.keys()
    for name, array in batch_statistics.leaves(dict(found)).items():
        np.testing.assert_allclose(array, arrays[name], rtol, atol=rtol, err_msg=name)


def accuracy(one: Predictor) -> float:
    """Returns the accuracy on the held-out images, without `evaluators`."""
    examples = source().splits["train"]
    images = np.stack([examples[index]["image"] for index in range(HELD_OUT, len(examples))])
    inputs = ((images / 255 - MEAN) / STD).astype(np.float32)
    predicted = one.predict(one.variables, {"image": jnp.asarray(inputs)})["logits"].argmax(-1)
    return float((np.asarray(predicted) == examples.labels()[HELD_OUT:]).mean())


def changed(one: Predictor, **arrays: float) -> Predictor:
    """Returns a predictor with 'COLLECTION__LAYER__NAME' set to a number everywhere."""
    leaves = batch_statistics.leaves(dict(one.variables))
    for name, value in arrays.items():
        path = name.replace("__", "/")
        leaves[path] = np.full_like(leaves[path], value)
    variables = batch_statistics.rebuild(dict(one.variables), leaves)
    return dataclasses.replace(one, variables=variables)


def test_an_average_equals_the_mean_in_float64() -> None:
    rng = np.random.default_rng(0)
    members: list[Any] = [
        {
            "params": {"conv": {"kernel": rng.normal(size=(3, 4)).astype(np.float32)}},
            "batch_stats": {"norm": {"mean": np.array([mean], np.float32)}},
        }
        for mean in (1e8, 1, -1e8)
    ]
    found = soups.average(members)
    kernels = [one["params"]["conv"]["kernel"] for one in members]
    expected = np.mean(np.array(kernels, np.float64), axis=0).astype(np.float32)
    np.testing.assert_array_equal(found["params"]["conv"]["kernel"], expected)
    # In float32, the sum would be 0.
    np.testing.assert_array_equal(found["batch_stats"]["norm"]["mean"], np.float32(1 / 3))
    assert found["params"]["conv"]["kernel"].dtype == np.float32


def test_integers_are_those_of_the_first_member() -> None:
    members = [{"params": {"w": np.float32(n)}, "batch_stats": {"n": np.int32(n)}} for n in (1, 2)]
    assert soups.average(members) == {"params": {"w": 1.5}, "batch_stats": {"n": 1}}


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "a soup needs members, got none"),
        (
            [{"params": {"a": np.zeros(2), "b": np.zeros(2)}}, {"params": {"a": np.zeros(2)}}],
            r"member 1 .* first array that differs is 'params/b': none and shape \[2\]",
        ),
        (
            [{"params": {"a": np.zeros(2)}}, {"params": {"a": np.zeros(2), "b": np.zeros(3)}}],
            r"'params/b': shape \[3\] and none",
        ),
        (
            [{"params": {"a": np.zeros((2, 1))}}, {"params": {"a": np.zeros((3, 1))}}],
            r"'params/a': shape \[3, 1\] and shape \[2, 1\]",
        ),
    ],
)
def test_variables_of_different_networks_are_refused(members: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        soups.average(members)


@pytest.mark.parametrize("model", [PLAIN, Small()])
def test_a_soup_of_identical_members_is_the_member(model: Small) -> None:
    one = member(model, 1)
    soup = soups.uniform([one, one, one], source())
    check_equal(soup.variables, one.variables)
    assert soup.notes == ("mean of the weights of 3 networks",)


def test_a_uniform_soup_of_a_network_without_statistics_needs_no_images() -> None:
    members = [member(PLAIN, seed) for seed in (1, 2)]
    soup = soups.uniform(members)
    check_equal(soup.variables, soups.average([one.variables for one in members]))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(soup.variables))


class Moments:
    """Batch statistics of `Small` in NumPy and float64.

    Attributes:
      inputs: for each batch, the inputs of the first layer.
      hidden: for each batch, those of the second normalisation.
    """

    def __init__(
        self, one: Predictor, count: int, size: int, first: tuple[np.ndarray, ...] = ()
    ) -> None:
        """Runs `Small` in training mode on `size` training images in `count` batches.

        `first` has mean and variance of the first normalisation, if it is in evaluation mode.
        """
        params = jax.tree.map(np.float64, one.variables["params"])
        examples = source().splits["train"]
        images = np.stack([examples[index]["image"] for index in range(size)])
        whole = (images.reshape(size, -1) / 255 - MEAN) / STD
        self.inputs = [whole[start::count] for start in range(count)]
        self.hidden = []
        for x in self.inputs:
            mean, var = first or (x.mean(0), x.var(0))
            norm, dense = params["norm1"], params["dense1"]
            y = (x - mean) / np.sqrt(var + 1e-5) * norm["scale"] + norm["bias"]
            self.hidden.append(np.maximum(y @ dense["kernel"] + dense["bias"], 0))

    @property
    def statistics(self) -> Variables:
        layers = {"norm1": np.concatenate(self.inputs), "norm2": np.concatenate(self.hidden)}
        return {name: {"mean": x.mean(0), "var": x.var(0)} for name, x in layers.items()}


@pytest.mark.parametrize(("batch_size", "count"), [(200, 1), (128, 2), (30, 5)])
def test_recomputed_statistics_are_those_of_all_activations(batch_size: int, count: int) -> None:
    # Batches of 29 and 30 images, so that two shapes are compiled.
    one, size = member(Small(), 1), 149
    found = batch_statistics.recompute(
        one, source(), f"train[:{size}]", batch_size=batch_size
    ).variables
    expected = Moments(one, count, size).statistics
    check_equal(found["batch_stats"], expected, rtol=1e-5)
    check_equal(found["params"], one.variables["params"])


def test_recomputed_statistics_do_not_depend_on_the_running_ones() -> None:
    one = member(Small(), 1)
    other = changed(one, batch_stats__norm1__mean=7, batch_stats__norm2__var=9)
    found, again = (batch_statistics.recompute(p, source(), "train[:40]") for p in (one, other))
    check_equal(found.variables, again.variables)


def test_dropout_is_active_while_statistics_are_recomputed() -> None:
    one = member(Small(), 1)
    noisy = dataclasses.replace(one, model=Small(dropout_rate=0.5))
    found, other = (
        batch_statistics.recompute(p, source(), "train[:300]").variables["batch_stats"]
        for p in (one, noisy)
    )
    check_equal(found["norm1"], other["norm1"])
    mean = found["norm2"]["mean"]
    assert np.abs(found["norm2"]["mean"] - other["norm2"]["mean"]).max() > 0.01
    np.testing.assert_allclose(other["norm2"]["mean"], mean, atol=0.3)


def test_a_network_without_statistics_is_returned_as_it_is() -> None:
    one = member(PLAIN, 1)
    assert batch_statistics.recompute(one, source()) is one


def test_a_uniform_soup_has_the_statistics_of_its_own_weights() -> None:
    soup = soups.uniform([member(Small(), 1), member(Small(), 2)], source(), "train[:150]")
    # With 150 images there are two batches.
    check_equal(soup.variables["batch_stats"], Moments(soup, 2, 150).statistics, rtol=1e-5)


def test_statistics_that_all_members_share_are_kept_and_used() -> None:
    given = {"batch_stats__norm1__mean": 0.25, "batch_stats__norm1__var": 2.0}
    soup = soups.uniform([changed(member(Small(), n), **given) for n in (1, 2)], source())
    found = soup.variables["batch_stats"]
    first = tuple(np.asarray(found["norm1"][name], np.float64) for name in ("mean", "var"))
    assert {float(value) for value in np.stack(first).ravel()} == {0.25, 2.0}
    size = len(source().splits["train"])
    expected = Moments(soup, -(-size // 128), size, first).statistics
    check_equal(found["norm2"], expected["norm2"], rtol=1e-5)


def test_a_shared_second_layer_of_flax_is_kept() -> None:
    given = {"batch_stats__norm2__mean": 0.25, "batch_stats__norm2__var": 2.0}
    members = [changed(member(Small(), n), **given) for n in (1, 2)]
    soup = soups.uniform(members, source(), "train[:90]")
    np.testing.assert_array_equal(soup.variables["batch_stats"]["norm2"]["mean"], 0.25)
    expected = Moments(soup, 1, 90).statistics["norm1"]
    check_equal(soup.variables["batch_stats"]["norm1"], expected, rtol=1e-5)


def test_a_layer_with_unknown_statistics_is_refused() -> None:
    class Fixed:
        """A network whose running statistics are updated without a field 'momentum'."""

        def apply(self, variables: Variables, *args: Any, **kwargs: Any) -> Any:
            old = variables["batch_stats"]
            return None, {"batch_stats": jax.tree.map(lambda leaf: 0.9 * leaf + 0.1, old)}

    one = dataclasses.replace(member(Small(), 1), model=Fixed())
    with pytest.raises(errors.UserError, match="batch_stats/norm1/mean cannot be computed anew"):
        batch_statistics.recompute(one, source(), "train[:20]")


def greedy_by_definition(members: list[Predictor]) -> list[int]:
    """Returns the ingredients of a greedy soup of a network without statistics."""
    order = sorted(range(len(members)), key=lambda index: -accuracy(members[index]))
    chosen: list[int] = []
    best = 0.0
    for index in order:
        parts = [members[one].variables for one in [*chosen, index]]
        mean = jax.tree.map(lambda *leaves: np.mean(np.array(leaves, "f8"), 0).astype("f4"), *parts)
        found = accuracy(dataclasses.replace(members[0], variables=mean))
        if found >= best:
            chosen, best = [*chosen, index], found
    return chosen


def test_a_greedy_soup_follows_its_definition() -> None:
    members = [member(PLAIN, seed) for seed in range(3)]
    # This one spoils each soup.
    members.insert(1, changed(members[0], params__dense1__kernel=0.3))
    soup = soups.greedy(members, source(), SPLIT)
    assert list(soup.members) == greedy_by_definition(members)
    assert 1 not in soup.members
    assert len(soup.members) > 1
    assert soup.accuracies == tuple(accuracy(one) for one in members)
    assert soup.accuracy == accuracy(soup.predictor) >= max(soup.accuracies)
    parts = [members[index].variables for index in soup.members]
    check_equal(soup.predictor.variables, soups.average(parts))
    values = evaluators.evaluate(soup.predictor, source(), SPLIT).values
    assert soup.accuracy == pytest.approx(values["top1"], rel=1e-12)


def test_the_best_member_alone_is_a_greedy_soup() -> None:
    best = member(Small(), 1)
    worse = changed(best, params__dense1__kernel=-1, batch_stats__norm1__mean=0)
    soup = soups.greedy([worse, best], source(), SPLIT, statistics_split="train[:200]")
    assert soup.members == (1,)
    assert soup.predictor is best
    assert soup.accuracy == soup.accuracies[1]


def test_a_greedy_soup_with_statistics_is_no_worse_than_its_best_member() -> None:
    members = [member(Small(), seed) for seed in (1, 2)]
    soup = soups.greedy(members, source(), SPLIT, statistics_split="train[:600]")
    assert soup.accuracy == accuracy(soup.predictor) >= max(soup.accuracies)


def test_of_equal_networks_the_first_goes_first() -> None:
    one = member(PLAIN, 1)
    soup = soups.greedy([one, one], source(), SPLIT)
    assert soup.members == (0, 1)
    check_equal(soup.predictor.variables, one.variables)


def replaced(**changes: Any) -> Predictor:
    return dataclasses.replace(member(Small(), 1), **changes)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: "runs/1", "member 1 .* of a soup must be a Predictor, got str"),
        (lambda: replaced(class_names=CLASSES[::-1]), "member 1 .* they are in another order"),
        (lambda: member(PLAIN, 1), "differ in their network: norm False and True. Give a soup"),
        (lambda: replaced(model=Small(epsilon=1e-3)), "network: epsilon 0.001 and 1e-05"),
        (lambda: replaced(model=None), "network: NoneType and Small"),
        (lambda: replaced(input_shape=(9, 8, 1)), r"input shape: \(9, 8, 1\) and \(8, 8, 1\)"),
        (
            lambda: member(Small(), 1, mean=0.1),
            r"preprocessing: mean \(0.1,\) and \(0.3,\). .* ensembles.evaluate",
        ),
        (
            lambda: replaced(variables={**replaced().variables, "batch_stats": {}}),
            r"first array that differs is 'batch_stats/norm1/mean': none and shape \[64\]",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(other: Callable[[], Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        soups.uniform([replaced(), other()], source())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"predictors": ()}, "a soup needs at least two members, got 0"),
        ({"source": None}, "pass a source and the name of its training split"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"split": "trian"}, "unknown split 'trian'; did you mean 'train'"),
    ],
)
def test_what_does_not_fit_is_named_before_images_are_prepared(
    keys: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"predictors": [replaced()] * 2, "source": source()}
    monkeypatch.setattr(Predictor, "prepare", None)
    with pytest.raises(errors.UserError, match=message):
        soups.uniform(**{**given, **keys})


def test_statistics_need_the_module() -> None:
    with pytest.raises(errors.UserError, match=r"needs the Linen module.*replace\(predictor"):
        batch_statistics.recompute(replaced(model=None), source())


def test_rates_of_other_kinds_may_not_differ() -> None:
    class Dilated(Small):
        dilation_rate: int = 1

    members = [replaced(model=Dilated(dilation_rate=rate)) for rate in (1, 2)]
    with pytest.raises(errors.UserError, match="differ in their network: dilation_rate 2 and 1"):
        soups.uniform(members, source())


def test_rates_of_dropout_may_differ() -> None:
    other = replaced(model=Small(dropout_rate=0.2))
    check_equal(soups.uniform([replaced(), other], source()).variables, other.variables)


@pytest.mark.xdist_group("trained")
def test_a_soup_of_checkpoints_is_saved_as_weights(trained: Path, tmp_path: Path) -> None:
    steps = checkpoint.steps(trained / workdir.CHECKPOINTS)
    members = [predictor.load(trained, str(step)) for step in steps[-2:]]
    soup = soups.uniform(members)
    path = tmp_path / "soup.safetensors"
    mean, std = (0.5,), (0.25,)
    preprocessing = pretrained.Preprocessing(32, 32, CLASSES, mean, std)
    pretrained.save(path, "lenet", soup.variables, preprocessing=preprocessing)
    check_equal(pretrained.load(path).variables, soup.variables)
