"""Tests of the partitions of a layout, which put no array on a device."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cnn_jax import errors, plan
from cnn_jax.runtime import sharding
from cnn_jax.runtime.sharding import Layout


def repeated(shape: tuple[int, ...], names: tuple[str, ...]) -> Mesh:
    """Returns a mesh of one device in many places, for layouts that no array is put into."""
    devices = np.array(jax.devices()[:1] * int(np.prod(shape))).reshape(shape)
    return Mesh(devices, names)


@pytest.mark.parametrize(
    ("shape", "partition"),
    [
        ((), P()),
        ((3,), P()),
        ((4,), P("fsdp")),
        ((3, 5), P()),
        ((4, 8), P(None, "fsdp")),
        ((8, 4), P("fsdp")),
        ((4, 4), P("fsdp")),  # Of equal axes, the first is split.
        ((3, 3, 64, 65), P(None, None, "fsdp")),
        ((3, 3, 1, 6), P()),
        ((9, 6, 4), P(None, None, "fsdp")),
    ],
)
def test_the_largest_divisible_axis_is_split_over_fsdp(
    shape: tuple[int, ...], partition: P
) -> None:
    mesh = repeated((2, 4), ("data", "fsdp"))
    leaf = jax.ShapeDtypeStruct(shape, np.float32)
    assert Layout(mesh).of({"a": leaf}) == {"a": NamedSharding(mesh, partition)}
    for names in (("data",), ("data", "model")):
        plain = repeated((2, 4)[: len(names)], names)
        assert Layout(plain).of([leaf]) == [NamedSharding(plain, P())]


def test_the_first_rule_that_matches_a_path_decides() -> None:
    mesh = repeated((2, 2, 2), ("data", "fsdp", "model"))
    rules = (
        (r"^params/conv\d/kernel$", P(None, None, None, "model")),
        (r"kernel", P("model", "fsdp")),
        (r"^batch_stats/", P()),
    )
    leaf = jax.ShapeDtypeStruct((4, 4, 4, 4), np.float32)
    tree = {
        "params": {"conv1": {"kernel": leaf, "bias": leaf}, "dense": {"kernel": leaf}},
        "batch_stats": {"norm": {"mean": leaf}},
        "opt_state": ({"conv1": {"kernel": leaf}},),
    }
    found = jax.tree.map(lambda sharding: sharding.spec, Layout(mesh, rules).of(tree))
    assert found == {
        "params": {
            "conv1": {"kernel": P(None, None, None, "model"), "bias": P("fsdp")},
            "dense": {"kernel": P("model", "fsdp")},
        },
        "batch_stats": {"norm": {"mean": P()}},
        "opt_state": ({"conv1": {"kernel": P("model", "fsdp")}},),
    }


@pytest.mark.parametrize(
    ("shape", "names", "axes", "parts"),
    [
        ((8,), ("data",), ("data",), 8),
        ((2, 4), ("data", "fsdp"), ("data", "fsdp"), 8),
        ((2, 4), ("data", "model"), ("data",), 2),
        ((2, 3, 4), ("data", "fsdp", "model"), ("data", "fsdp"), 6),
    ],
)
def test_a_batch_is_split_over_data_and_fsdp(
    shape: tuple[int, ...], names: tuple[str, ...], axes: tuple[str, ...], parts: int
) -> None:
    layout = Layout(repeated(shape, names))
    assert layout.batch.spec == P(axes)
    assert layout.whole.spec == P()
    assert layout.batch_divisor == parts
    layout.check_batch_size(2 * parts)
    with pytest.raises(errors.UserError, match=f"does not divide by the {parts} devices"):
        layout.check_batch_size(2 * parts + 1)


@pytest.mark.parametrize(
    ("batch_size", "message"),
    [
        (0, "train.batch_size must be at least 1, got 0"),
        (-8, "train.batch_size must be at least 1, got -8"),
        (3, "train.batch_size 3 does not divide by the 8 devices; nearest: 8, 16"),
        (100, "train.batch_size 100 does not divide by the 8 devices; nearest: 96, 104"),
    ],
)
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_sizes(
    batch_size: int, message: str
) -> None:
    layout = Layout(repeated((8,), (sharding.DATA_AXIS,)))
    with pytest.raises(errors.UserError, match=f"^{message}$"):
        layout.check_batch_size(plan.read({"train": {"batch_size": batch_size}}).train.batch_size)
    layout.check_batch_size(16)
