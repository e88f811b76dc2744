"""Tests of the metrics between two lines of the log."""

import re
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors, metrics
from cnn_jax.contracts import Sums
from cnn_jax.train.window import Window

RNG = np.random.default_rng(0)


def part(loss: float, count: float = 2.0) -> Sums:
    return {"loss": (jnp.float32(loss), jnp.float32(count))}


def stacked(*losses: float) -> Sums:
    """Returns the sums of a call with several steps, stacked along the first axis."""
    return jax.tree.map(lambda *values: jnp.stack(values), *map(part, losses))


def test_a_resumed_window_equals_an_uninterrupted_one() -> None:
    values = RNG.normal(size=6).tolist()
    whole, first = Window(), Window()
    whole.add(range(6), stacked(*values))
    # The call has two steps; the third value is ignored.
    first.add(range(2), stacked(*values[:2], 9.0))
    first.add(range(2, 3), stacked(values[2]))
    second = Window(first.totals())
    for step, value in enumerate(values[3:], start=3):
        second.add(range(step, step + 1), stacked(value))
    assert second.totals() == whole.totals() == metrics.add(map(part, values))


def test_reading_the_totals_of_a_window_does_not_change_them() -> None:
    window = Window()
    window.add(range(1), stacked(3.0))
    assert window.totals() == window.totals() == {"loss": (3.0, 2.0)}
    window.add(range(1, 2), stacked(1.0))
    assert window.totals() == {"loss": (4.0, 4.0)}
    window.clear()
    assert window.totals() == {}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_window_names_the_first_step_that_is_not_finite(bad: float) -> None:
    window = Window()
    norm: Any = (jnp.ones(3), jnp.ones(3))
    for call, shown in ((range(10, 11), (1.0, 2.0, bad)), (range(11, 14), (2.0, bad, bad))):
        window.add(call, {**stacked(*shown), "gradient_norm": norm})
    message = re.compile("^loss at step 13 is not finite.*optim.learning_rate", re.DOTALL)
    with pytest.raises(errors.DivergedError, match=message):
        window.totals()


def test_adding_metrics_does_not_wait_for_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    device_get = jax.device_get

    def get(tree: Any) -> Any:
        waits.append("device_get")
        return device_get(tree)

    monkeypatch.setattr(jax, "device_get", get)
    monkeypatch.setattr(jax, "block_until_ready", lambda tree: waits.append("block_until_ready"))
    window, unread = Window({"loss": (1.0, 1.0)}), cast("jax.Array", Unread())
    for step in range(50):
        window.add(range(step, step + 1), {"loss": (unread, unread)})
    assert waits == []
    window.clear()
    window.add(range(50, 51), stacked(3.0))
    assert waits == []
    assert window.totals() == {"loss": (3.0, 2.0)}
    assert "device_get" in waits


class Unread:
    """Array on a device whose value must not be read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was read")


def test_a_batch_without_a_readable_image_is_an_error() -> None:
    window = Window()
    window.add(range(3, 5), {"loss": (jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0]))})
    with pytest.raises(errors.UserError, match="no image of the batch of step 4 can be read"):
        window.totals()


def test_a_metric_that_nothing_was_counted_for_has_no_mean() -> None:
    window = Window()
    window.add(
        range(1), {"rare": (jnp.zeros(1), jnp.zeros(1)), "all": (jnp.ones(1), 2 * jnp.ones(1))}
    )
    found = metrics.mean(window.totals())
    assert found["all"] == 0.5
    assert np.isnan(found["rare"])
