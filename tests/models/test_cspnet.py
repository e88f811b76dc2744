"""Tests of cross-stage partial networks: initial blocks and rates of stochastic depth."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cnn_jax import models

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 3))


def create(name: str = "cspdarknet53", **overrides: Any) -> nn.Module:
    fields: dict[str, Any] = {
        "stage_sizes": (2, 3),
        "widths": (4, 4),
        "expansions": (1, 1),
        **overrides,
    }
    return models.create(name, num_classes=10, **fields)


@pytest.mark.parametrize(("name", "last"), [("cspresnet50", "conv3"), ("cspdarknet53", "conv2")])
def test_only_the_last_normalisation_of_a_block_has_an_initial_scale_of_zero(
    name: str, last: str
) -> None:
    model = create(name)

    @jax.jit
    def scales() -> Any:
        params = model.init(jax.random.key(0), IMAGES, train=False)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if "scale" in str(path)}

    found = scales()
    zero = {path for path, scale in found.items() if not np.any(scale)}
    assert zero == {path for path in found if f"['{last}']" in path}


def test_stochastic_depth_rates_rise_over_all_stages() -> None:
    model = create(stochastic_depth_rate=0.4, dropout_rate=0.7)
    rates = []

    def record_rate(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(record_rate):
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        jax.eval_shape(lambda: model.init(rngs, jnp.asarray(IMAGES), train=True))
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.7])


def test_unknown_block_raises_error_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"model\.block 'drak'; did you mean 'dark'"):
        create(block="drak").init(jax.random.key(0), IMAGES, train=False)
