"""Tests of the pooling of the released squeeze-and-excitation networks."""

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import models


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("seresnet50", {64: 16, 45: 12}),
        ("legacy_seresnet50", {64: 16, 45: 11}),
    ],
)
def test_released_networks_pool_in_ceil_mode_without_padding(
    name: str, sizes: dict[int, int]
) -> None:
    """The stems return 32 and 23 pixels for images of 64 and 45 pixels.

    In ceil mode the windows of 3 pixels cover 0..2 to 30..32, and 0..2 to 20..22.
    """
    model = models.create(name, num_classes=10, stage_sizes=(1,), widths=(8,))

    def stages(side: int) -> dict[str, jax.Array]:
        images = jnp.zeros((1, side, side, 3))
        variables = model.init(jax.random.key(0), images, train=False)
        return models.features(model, variables, images)

    found = {side: jax.eval_shape(lambda side=side: stages(side)) for side in sizes}
    assert {side: stage["stage1"].shape[1] for side, stage in found.items()} == sizes
