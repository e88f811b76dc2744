"""Mixup and CutMix; `tests/golden/make_mixing.py` made the reference."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import contracts, errors, plan
from cnn_jax.data import augment
from cnn_jax.data.augment import mixing, names
from cnn_jax.objectives.classification import Classification
from tests.golden import make_mixing

# In one process, so that operations of equal shapes are compiled once.
pytestmark = pytest.mark.xdist_group("augment")
LIBRARIES = ("timm", "torchvision")
SHAPE = (6, 7, 3)
DESCRIPTION = contracts.Description(("a", "b", "c"), None, SHAPE, mean=(0.5,) * 3, std=(0.25,) * 3)


@functools.cache
def golden(library: str) -> dict[str, Any]:
    return json.loads(make_mixing.FILE.read_text())[library]


def batch() -> contracts.Batch:
    pixels, labels = make_mixing.batch()
    return {
        "image": jnp.asarray(pixels),
        "label": jnp.asarray(labels, jnp.int32),
        "weight": jnp.ones(len(labels)),
    }


def made(name: str, **options: Any) -> contracts.Augmentation:
    return names.read(name, options).make(DESCRIPTION)


@pytest.mark.parametrize("library", LIBRARIES)
def test_boxes_and_their_shares_are_those_of_the_library(library: str) -> None:
    even = mixing.CONVENTIONS[library].even_boxes
    by_size: dict[tuple[int, int], list[Any]] = {}
    for size, *rest in golden(library)["boxes"]:
        by_size.setdefault(tuple(size), []).append(rest)
    for size, cases in by_size.items():
        shares, centres, boxes, targets = (np.array(part) for part in zip(*cases, strict=True))

        def find(share: Any, centre: Any, size: tuple[int, int] = size) -> Any:
            low, high = mixing.box(share, centre, size, even=even)
            return low, high, mixing.box_shares(low, high, size)

        low, high, found = jax.jit(jax.vmap(find))(shares.astype(np.float32), centres)
        np.testing.assert_array_equal(np.concatenate([low, high], -1), boxes)
        np.testing.assert_allclose(found.target, targets, rtol=0, atol=1e-7)
        # The share of the target is exactly the share of the pixels.
        np.testing.assert_array_equal(found.pixels.sum((1, 2)), np.prod(high - low, -1))
    assert len(by_size) == 4


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_mixed_images_and_targets_are_those_of_the_library(library: str, name: str) -> None:
    shares = mixing.box_shares(
        jnp.array(make_mixing.BOX[:2]), jnp.array(make_mixing.BOX[2:]), SHAPE[:2]
    )
    if name == "mixup":
        shares = mixing.Shares(jnp.full((1, 1), make_mixing.SHARE), jnp.array(make_mixing.SHARE))
    partner = mixing.CONVENTIONS[library].partner
    mixed = mixing.mix(batch(), shares, partner, num_classes=3)
    image, target = golden(library)["mixed"][name]
    np.testing.assert_allclose(mixed["image"], image, rtol=0, atol=1e-7 if name == "mixup" else 0)
    np.testing.assert_allclose(mixed["target"], target, rtol=0, atol=1e-7)
    np.testing.assert_array_equal(mixed["label"], batch()["label"])


def test_targets_of_several_labels_are_mixed_as_they_are() -> None:
    targets = jnp.array([[1.0, 0, 1], [0, 0, 0], [0, 1, 1], [1, 1, 1]])
    given = {"image": batch()["image"], "target": targets, "weight": jnp.ones(4)}
    mixed = mixing.mix(given, mixing.Shares(jnp.zeros((1, 1)), jnp.array(0.25)), "flip", 3)
    np.testing.assert_array_equal(mixed["target"], 0.75 * targets + 0.25 * targets[::-1])
    assert "label" not in mixed


@pytest.mark.parametrize("partner", ["flip", "roll"])
def test_an_unreadable_image_is_nobodys_partner(partner: str) -> None:
    given = {**batch(), "weight": jnp.array([1.0, 1, 0, 1])}
    shares = mixing.box_shares(jnp.array([0, 0]), jnp.array([3, 7]), SHAPE[:2])
    mixed = mixing.mix(given, shares, partner, num_classes=3)
    of_2 = {"flip": 1, "roll": 3}[partner]
    np.testing.assert_array_equal(mixed["image"][of_2], given["image"][of_2])
    np.testing.assert_array_equal(
        mixed["target"][of_2], jax.nn.one_hot(given["label"][of_2], num_classes=3)
    )
    other = {"flip": 0, "roll": 1}[partner]
    assert np.any(mixed["image"][other] != given["image"][other])


def own_shares(mixed: contracts.Batch) -> np.ndarray:
    """Returns the own share of an example whose class differs from that of its partner."""
    return np.asarray(mixed["target"][..., 1, 0])


@pytest.fixture(scope="module")
def draws() -> Any:
    """Returns the function from a name and options to many draws of the batch."""

    @functools.cache
    def draw(name: str, **options: Any) -> contracts.Batch:
        keys = jax.random.split(jax.random.key(5), 600)
        return jax.jit(jax.vmap(lambda key: made(name, **options)(key, batch())))(keys)

    return draw


@pytest.mark.slow
def test_one_share_in_a_batch_and_a_share_by_beta(draws: Any) -> None:
    mixed = draws("mixup", alpha=0.4)
    shares = own_shares(mixed)
    # Example 1 has class 0 and its partner class 1; example 0 and its partner have class 2.
    np.testing.assert_allclose(mixed["target"][:, 2, 1], shares, atol=1e-6)
    np.testing.assert_allclose(mixed["target"][:, 0], [[0, 0, 1]] * 600, atol=1e-6)
    # Mean and variance of Beta(a, a) are 1/2 and 1 / (4 (2 a + 1)).
    variance = 1 / (4 * (2 * 0.4 + 1))
    assert abs(shares.mean() - 0.5) < 5 * np.sqrt(variance / 600)
    assert abs(shares.var() - variance) < 0.02


@pytest.mark.slow
def test_big_vision_keeps_at_least_half_of_each_example(draws: Any) -> None:
    # Class of example 1 is 0; its partner is example 0, by one place.
    shares = own_shares(draws("mixup", alpha=0.2, convention="big_vision"))
    assert shares.min() >= 0.5
    assert shares.max() > 0.99


@pytest.mark.slow
def test_the_target_of_cutmix_is_the_share_of_pixels_in_every_draw(draws: Any) -> None:
    mixed = draws("cutmix")
    kept = np.all(np.asarray(mixed["image"]) == np.asarray(batch()["image"]), axis=-1)
    shares = kept[:, 1].mean((1, 2))
    np.testing.assert_allclose(own_shares(mixed), shares, atol=1e-6)
    assert len(np.unique(shares)) > 15


@pytest.mark.slow
def test_each_batch_is_mixed_by_one_of_both_or_not_at_all(draws: Any) -> None:
    mixed = draws("mixup_cutmix", probability=0.8, switch_probability=0.25)
    kept = np.all(np.asarray(mixed["image"]) == np.asarray(batch()["image"]), axis=-1)[:, 1]
    whole = kept.all((1, 2))
    boxed = kept.any((1, 2)) & ~whole
    for share, expected in ((boxed, 0.8 * 0.25), (~kept.any((1, 2)), 0.8 * 0.75)):
        # Some boxes are empty or the whole image, so CutMix is seen less often.
        assert abs(share.mean() - expected) < 0.08
    np.testing.assert_allclose(own_shares(mixed)[whole], 1, atol=1e-6)


def test_metrics_count_the_own_class_and_the_loss_takes_the_mixed_target() -> None:
    shares = mixing.Shares(jnp.full((1, 1), 0.7), jnp.array(0.7))
    mixed = mixing.mix(batch(), shares, "flip", num_classes=3)
    seen = []

    def loss(outputs: Any, given: contracts.Batch) -> jax.Array:
        seen.append(given["target"])
        return jnp.zeros(4)

    class Own:
        """A network that is sure of each example's own class."""

        def apply(self, *_: Any, **__: Any) -> Any:
            return 9.0 * jax.nn.one_hot(batch()["label"], 3), {}

    network: Any = Own()
    objective = Classification(network, loss)
    carried = contracts.Carried(jnp.array(0), {}, {})
    _, (_, sums) = objective.loss({}, carried, mixed, jax.random.key(0))
    assert float(sums["top1"][0]) == 4
    np.testing.assert_allclose(seen[0][1], [0.3, 0.7, 0], atol=1e-6)


def test_a_plan_lists_mixing_after_normalisation() -> None:
    listed = plan.read({"data": {"augment": ["mixup", ("cutmix", {"alpha": 0.5})]}}).data
    parts = augment.make(listed, DESCRIPTION)
    assert [(part.stream, part.stage) for part in parts] == [
        (100, "normalised"),
        (101, "normalised"),
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mixup", {"alpha": 0.0}, "alpha must be greater than 0"),
        ("mixup", {"probability": 1.5}, r"probability must be in \[0, 1\]"),
        ("mixup_cutmix", {"convention": "keras"}, "convention must be timm, torchvision or"),
        ("cutmix", {"convention": "big_vision"}, "has no CutMix"),
        ("cutmix", {"beta": 1.0}, "unknown option of data.augment 'cutmix' 'beta'"),
    ],
)
def test_a_bad_option_is_an_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        names.read(name, options)
