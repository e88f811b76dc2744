"""Tests of ResNets beyond the golden files: shortcuts without parameters, and options."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import models


def variables_of(model: Any, images: jax.Array) -> Any:
    return jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()


def features(model: Any, variables: Any, images: jax.Array) -> dict[str, jax.Array]:
    return jax.jit(lambda *arguments: models.features(model, *arguments))(variables, images)


def test_option_a_keeps_every_second_pixel_and_pads_channels_with_zeros() -> None:
    """With a zero last scale, a block returns the ReLU of its shortcut."""
    model = models.create(
        "resnet20", num_classes=10, stage_sizes=(1, 1), widths=(16, 32), zero_init_residual=True
    )
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    variables = variables_of(model, images)
    stages = features(model, variables, images)
    stem, second = np.asarray(stages["stem"]), np.asarray(stages["stage2"])
    np.testing.assert_array_equal(stages["stage1"], stem)
    np.testing.assert_array_equal(second[..., 8:24], stem[:, ::2, ::2])
    assert not second[..., :8].any()
    assert not second[..., 24:].any()


def test_plain_networks_lack_only_the_shortcut_parameters() -> None:
    images = jnp.zeros((1, 32, 32, 3))
    plain, residual = (
        jax.eval_shape(lambda name=name: variables_of(models.create(name, num_classes=10), images))
        for name in ("plain18", "resnet18")
    )
    extra = {
        f"{block}/{child}"
        for block, children in residual["params"].items()
        for child in children
        if child not in plain["params"][block]
    }
    assert extra == {
        f"layer{stage}_0/downsample_{kind}" for stage in (2, 3, 4) for kind in ("conv", "bn")
    }


def test_same_padding_shifts_the_stem_windows_of_even_images() -> None:
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    half, same = (
        models.create("resnet18", num_classes=10, stage_sizes=(1,), widths=(4,), padding=padding)
        for padding in ("HALF", "SAME")
    )
    variables = variables_of(half, images)
    stem = features(same, variables, images)["stem"]
    shifted = jnp.pad(images, ((0, 0), (2, 3), (2, 3), (0, 0)))
    inside = features(half, variables, shifted[:, 1:, 1:])["stem"]
    np.testing.assert_allclose(stem[:, 2:-2, 2:-2], inside[:, 3:-2, 3:-2][:, :12, :12], atol=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stem": "5x5"}, "unknown model.stem '5x5'.*7x7"),
        ({"shortcut": "projections"}, "did you mean 'projection'"),
        ({"padding": "VALID"}, "unknown model.padding 'VALID'; allowed: HALF, SAME"),
    ],
)
def test_an_unknown_option_value_raises(overrides: Any, message: str) -> None:
    def trace() -> Any:
        model = models.create("resnet18", num_classes=10, **overrides)
        return jax.eval_shape(lambda: variables_of(model, jnp.zeros((1, 32, 32, 3))))

    with pytest.raises(ValueError, match=message):
        trace()
