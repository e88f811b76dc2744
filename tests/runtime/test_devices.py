"""Tests of JAX_PLATFORMS that asks for a device that JAX does not find."""

import jax
import pytest

from cnn_jax import errors, main, plan, train
from cnn_jax.runtime import sharding

# The errors of JAX 0.10 without a CUDA plugin, and without a TPU.
FAILURES = (
    (AssertionError(), "there is no plugin for it"),
    (
        RuntimeError("Unable to initialize backend 'tpu': no\nlibtpu. (set JAX_PLATFORMS='' to)"),
        "Unable to initialize backend 'tpu': no libtpu",
    ),
)


@pytest.mark.parametrize(("failure", "reason"), FAILURES, ids=["cuda", "tpu"])
def test_a_device_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, failure: Exception, reason: str
) -> None:
    def devices() -> list[jax.Device]:
        raise failure

    sharding.check_devices()
    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setattr(jax, "process_count", devices)
    given = jax.config.values["jax_platforms"] or ""
    words = (
        f"JAX finds no device for JAX_PLATFORMS={given!r}: {reason}; install JAX for this device, "
        "or set JAX_PLATFORMS=cpu"
    )
    for call in (
        sharding.check_devices,
        lambda: train.run(plan.Plan()),
        lambda: main.main(["--config=configs/quickstart.py:smoke"]),
    ):
        with pytest.raises(errors.UserError) as caught:
            call()
        assert str(caught.value) == words
