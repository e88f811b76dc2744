"""Draws of operations by RandAugment and other policies: their probabilities, in large batches."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax.data.augment import names
from cnn_jax.data.augment.policies import (
    of_tensorflow,
    of_timm,
    of_torchvision,
    operations,
    sub_policies,
)
from tests.golden import make_policies

# In one process, so that operations of equal shapes are compiled once.
pytestmark = pytest.mark.xdist_group("augment")
SHAPE = (make_policies.HEIGHT, make_policies.WIDTH, make_policies.CHANNELS)
FILL = tuple(float(value) for value in make_policies.FILL)
DRAWS = 40_000


def drawn(name: str, **options: Any) -> operations.Chosen:
    """Returns the operations of many images."""
    policy: Any = names.read(name, options)
    chosen = jax.jit(policy.draw, static_argnums=1)(jax.random.key(7), (DRAWS, *SHAPE))
    return jax.tree.map(np.asarray, chosen)


def counts_are(found: Counter[Any], expected: dict[Any, float], draws: int) -> None:
    """Checks counts against probabilities, with five standard deviations."""
    assert set(found) <= set(expected)
    for key, share in expected.items():
        deviation = np.sqrt(draws * share * (1 - share))
        assert abs(found[key] - draws * share) <= 5 * deviation + 1e-9, (key, share)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "library", "occurring"),
    [
        ("rand_augment_tf", of_tensorflow.LIBRARY, of_tensorflow.NAMES),
        ("rand_augment_timm", operations.Library("pillow", "bicubic", FILL), of_timm.NAMES),
        (
            "trivial_augment_wide",
            operations.Library("torchvision", "bilinear", FILL),
            of_torchvision.SPACES["trivial_augment_wide"].names,
        ),
    ],
)
def test_all_images_at_once_give_the_results_of_one_by_one(
    policy: str, library: operations.Library, occurring: Sequence[str]
) -> None:
    chosen = jax.tree.map(lambda each: each[0, :120], drawn(policy))
    images = np.broadcast_to(make_policies.picture(), (120, *SHAPE))
    each, together = (
        jax.jit(function, static_argnums=(2, 3))(images, chosen, library, occurring)
        for function in (operations.one_by_one, operations.at_once)
    )
    difference = np.abs(np.asarray(each, int) - np.asarray(together, int))
    # Sums of bilinear weights end at half a level, and XLA rounds one of both programs otherwise.
    assert difference.max() <= (library.interpolation == "bilinear")
    assert (difference > 0).mean() < 1e-4
    assert set(map(operations.number, occurring)) <= set(chosen.operation.tolist())


def test_rand_augment_draws_operations_and_signs_with_equal_probabilities() -> None:
    chosen = drawn("rand_augment", num_ops=3)
    assert chosen.operation.shape == (3, DRAWS)
    space = of_torchvision.SPACES["rand_augment"]
    pairs = {
        (operations.number(name), float(argument)): 0.5 / 14
        for name in space.names
        for argument in space.arguments(name, 31, SHAPE[:2])[9]
    }
    for name in space.names:
        first, second = space.arguments(name, 31, SHAPE[:2])[9]
        if first == second:
            pairs[operations.number(name), float(first)] = 1 / 14
    for layer in range(3):
        found = zip(chosen.operation[layer].tolist(), chosen.argument[layer].tolist(), strict=True)
        counts_are(Counter(found), pairs, DRAWS)
    same = (chosen.operation[0] == chosen.operation[1]).mean()
    assert abs(same - 1 / 14) < 5 * np.sqrt(1 / 14 / DRAWS)


@pytest.mark.slow
def test_trivial_augment_draws_all_magnitudes() -> None:
    chosen = drawn("trivial_augment_wide")
    is_rotated = chosen.operation[0] == operations.number("rotate")
    counts_are(Counter(is_rotated.tolist()), {True: 1 / 14, False: 13 / 14}, DRAWS)
    angles = Counter(np.round(chosen.argument[0][is_rotated], 3).tolist())
    expected = {4.5 * step: 1 / 62 for step in range(-30, 31)} | {0.0: 2 / 62}
    counts_are(angles, expected, int(is_rotated.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["auto_augment", "auto_augment_timm", "auto_augment_tf"])
def test_auto_augment_draws_sub_policies_with_their_probabilities(name: str) -> None:
    chosen = drawn(name)
    policy = sub_policies.TABLES["imagenet" if name == "auto_augment" else "v0"]
    pairs: dict[tuple[int, int], float] = defaultdict(float)
    for (first, first_share, _), (second, second_share, _) in policy:
        for one, one_share in ((first, first_share), ("identity", 1 - first_share)):
            for two, two_share in ((second, second_share), ("identity", 1 - second_share)):
                key = operations.number(one), operations.number(two)
                pairs[key] += one_share * two_share / len(policy)
    found = Counter(zip(*chosen.operation.tolist(), strict=True))
    counts_are(found, {key: share for key, share in pairs.items() if share > 1e-12}, DRAWS)


@pytest.mark.slow
def test_timm_applies_an_operation_with_probability_and_draws_its_level() -> None:
    chosen = drawn("rand_augment_timm", config="rand-m9-mstd0.5-inc1")
    expected = {operations.number(name): 0.5 / 15 for name in of_timm.NAMES}
    expected[operations.number("identity")] = 0.5
    for layer in range(2):
        counts_are(Counter(chosen.operation[layer].tolist()), expected, DRAWS)
    rotated = chosen.argument[chosen.operation == operations.number("rotate")]
    counts_are(Counter((rotated > 0).tolist()), {True: 0.5, False: 0.5}, len(rotated))
    levels = np.abs(rotated) / 3
    assert levels.max() == 10
    assert abs((levels == 10).mean() - 0.02275) < 5 * np.sqrt(0.02275 / len(levels))
    inner = levels[levels < 9]  # the half of a normal distribution below its mean
    assert abs((9 - inner).mean() - 0.5 * np.sqrt(2 / np.pi)) < 0.03
    assert chosen.linear is not None
    counts_are(Counter(chosen.linear[0].tolist()), {True: 0.5, False: 0.5}, DRAWS)


def test_tensorflow_draws_the_squares_of_cutout_over_the_whole_image() -> None:
    chosen = drawn("rand_augment_tf")
    assert chosen.centre is not None
    assert chosen.centre.min((0, 1)).tolist() == [0, 0]
    assert chosen.centre.max((0, 1)).tolist() == [SHAPE[0] - 1, SHAPE[1] - 1]
    expected = {operations.number(name): 1 / 16 for name in of_tensorflow.NAMES}
    counts_are(Counter(chosen.operation[1].tolist()), expected, DRAWS)


@pytest.mark.slow
def test_augmix_draws_chains_of_one_to_three_operations() -> None:
    chosen = drawn("augmix", all_ops=False)
    is_used = (chosen.operation != operations.number("identity")).reshape(3, 3, DRAWS)
    lengths = Counter(is_used.sum(1).reshape(-1).tolist())
    counts_are(lengths, {1: 1 / 3, 2: 1 / 3, 3: 1 / 3}, 3 * DRAWS)
    assert np.all(is_used[:, 0])
    policy = of_torchvision.AugMix(alpha=1.0)
    own, weights = policy.draw_weights(jax.random.key(1), 2000)
    np.testing.assert_allclose(own + weights.sum(0), 1, rtol=1e-6)
    assert abs(float(own.mean()) - 0.5) < 0.05
