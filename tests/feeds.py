"""Feeds and their batches, for the tests of streamed sets."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cnn_jax import data, plan
from cnn_jax.contracts import Description, Feed, Source
from cnn_jax.data.streamed import Streamed
from cnn_jax.runtime import sharding
from tests.streams import pictures

KEYS: dict[str, Any] = {
    "storage": "streamed",
    "train_split": "auto",
    "validation_split": "auto",
    "test_split": "auto",
    "image_size": 16,
    "channels": 3,
    "resize": "bilinear",
    "workers": 0,
}
WHOLE: dict[str, Any] = {"train_split": "train", "validation_split": "", "test_split": ""}
RANDOM: dict[str, Any] = {"train_crop": "random_resized"}
MOMENTS: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
MOMENTS_GREY: dict[str, Any] = {"mean": (0.5,), "std": (0.2,)}
Arrays = dict[str, np.ndarray]


def make_plan(
    *, batch_size: int = 8, seed: int = 0, steps_per_call: int = 1, **keys: Any
) -> plan.Plan:
    """Returns a plan with the keys of `data` above, changed by `keys`."""
    train_keys = {"batch_size": batch_size, "steps_per_call": steps_per_call}
    return plan.read({"seed": seed, "data": {**KEYS, **keys}, "train": train_keys})


def bind(source: Source, *, description: Description | None = None, **changes: Any) -> Feed:
    """Returns the feed of a plan; see `make_plan`."""
    return data.bind(source, make_plan(**changes), sharding.make_layout(), description)


def stream(source: Source, **changes: Any) -> Streamed:
    """Returns the streamed feed of a plan; see `make_plan`."""
    feed = bind(source, **changes)
    assert isinstance(feed, Streamed)
    return feed


def calls(start: int, steps: int) -> Iterator[range]:
    """Yields calls of one step each."""
    return (range(step, step + 1) for step in range(start, start + steps))


def taken(feed: Feed, start: int, steps: int) -> Arrays:
    """Returns the training inputs of some steps, `[steps, B, ...]`, and closes the feed."""
    with contextlib.closing(feed):
        parts = [
            {name: np.asarray(array) for name, array in inputs.items()}
            for _, inputs in feed.train_inputs(calls(start, steps))
        ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def evaluated(feed: Feed, split: str, batch_size: int) -> Arrays:
    """Returns the fields of the batches of a split, one after the other, padding included."""
    batches = list(data.eval_batches(feed, split, batch_size))
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def check_equal(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def by_label(inputs: Arrays, start: int, stop: int) -> dict[int, np.ndarray]:
    """Returns the image of each label in the batches of steps `start` to `stop`."""
    images = inputs["image"][start:stop].reshape(-1, *inputs["image"].shape[2:])
    return dict(zip(inputs["label"][start:stop].ravel().tolist(), images, strict=True))


def numbered(count: int, channels: int = 3) -> Source:
    """Returns a set in memory in which each example has a class of its own."""
    return data.from_arrays({"train": (pictures(count, channels), range(count))})
