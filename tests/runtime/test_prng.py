"""Tests of seeds: all 64 bits count, and the first 2**32 seeds keep their random numbers."""

from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import errors, plan
from cnn_jax.data import order, stratified
from cnn_jax.runtime import prng

LARGE = (2**32, 2**32 + 7, 2**63, 2**64 - 1)


def words(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).tolist()


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 1])
def test_a_seed_of_32_bits_gives_the_key_of_jax(seed: int) -> None:
    assert words(prng.key(seed)) == words(jax.random.key(seed)) == [0, seed]
    assert words(prng.stream(seed, "order")) == words(jax.random.fold_in(jax.random.key(seed), 1))
    with jax.default_prng_impl("rbg"):
        assert words(prng.key(seed)) == words(jax.random.key(seed))


@pytest.mark.parametrize("seed", LARGE)
def test_a_key_has_all_64_bits_of_its_seed(seed: int) -> None:
    assert words(prng.key(seed)) == [seed >> 32, seed & 0xFFFFFFFF]
    with jax.enable_x64(True):
        expected = words(jax.random.key(np.uint64(seed)))
    assert words(prng.key(np.uint64(seed))) == expected
    assert words(jax.jit(lambda: prng.key(seed))()) == expected
    assert words(prng.stream(seed, "init")) != words(prng.stream(seed % 2**32, "init"))


def test_the_order_of_a_seed_of_32_bits_stays() -> None:
    for seed, epoch in ((0, 0), (3, 5), (2**32 - 1, 1)):
        expected = np.random.SeedSequence([seed, 0, epoch]).generate_state(1)[0]
        assert order._epoch_seed(seed, epoch) == expected
    for place in (0, 9, 2**33 + 1):
        crop = np.random.Philox(np.random.SeedSequence([3, 1, place]))
        assert order.crop_rng(3, place).random() == np.random.Generator(crop).random()


def test_orders_and_crops_of_other_seeds_differ() -> None:
    """SeedSequence alone takes [1, 2] and [1, 2, 0] for equal, and joins the words of numbers."""
    seeds = (0, 1, 2**32, 2**32 + 1, 2**33, 1 + (5 << 32), *LARGE[2:])
    orders = {order._epoch_seed(seed, epoch) for seed in seeds for epoch in range(4)}
    places = (0, 1, 5, 5 << 32, 2**32)
    crops = {order.crop_rng(seed, place).random() for seed in seeds for place in places}
    assert len(orders) == 4 * len(seeds)
    assert len(crops) == len(places) * len(seeds)


def test_a_stratified_division_reads_all_bits() -> None:
    names = [f"{number}.png" for number in range(40)]

    def divide(seed: Any) -> list[int]:
        options: Any = {"shares": (0.5, 0.5, 0.0), "groups": "", "folds": 0, "fold": 0}
        return stratified.split(np.zeros(40, int), names, seed=seed, **options)["train"].tolist()

    assert len({tuple(divide(seed)) for seed in (0, *LARGE)}) == 5
    for seed in (-1, 2**64):
        with pytest.raises(errors.UserError, match="seed must be at least 0 and below"):
            divide(seed)


@pytest.mark.parametrize("path", ["seed", "data.split_seed"])
def test_config_keys_take_64_bits(path: str) -> None:
    assert plan.flatten(plan.read({path: 2**64 - 1}))[path] == 2**64 - 1
    for seed in (-1, 2**64):
        with pytest.raises(errors.UserError, match=rf"{path} must be at least 0 and below"):
            plan.read({path: seed})


@pytest.mark.parametrize(
    ("seed", "words"),
    [(-1, "got -1"), (2**64, "got 18446744073709551616"), (2**20_000, "of 20001 bits")],
    ids=["negative", "65 bits", "20001 bits"],
)
def test_other_integers_are_refused(seed: int, words: str) -> None:
    with pytest.raises(errors.UserError, match=rf"seed must be at least 0 and below .*{words}"):
        prng.key(seed)


def test_a_seed_is_an_integer() -> None:
    wrong: Any = 1.0
    with pytest.raises(errors.UserError, match="seed must be an integer, got float"):
        prng.key(wrong)
