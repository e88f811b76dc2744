"""Cross-stage partial networks: how blocks begin, and which are dropped how often."""

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
def test_blocks_begin_as_their_shortcuts_alone(name: str, last: str) -> None:
    model = create(name)

    @jax.jit
    def scales() -> Any:
        params = model.init(jax.random.key(0), IMAGES, train=False)["params"]
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if "scale" in str(path)}

    found = scales()
    zero = {path for path, scale in found.items() if not np.any(scale)}
    assert zero == {path for path in found if f"['{last}']" in path}


def test_rates_of_stochastic_depth_rise_over_all_stages() -> None:
    model = create(stochastic_depth_rate=0.4, dropout_rate=0.7)
    rates = []

    def note(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        jax.eval_shape(lambda: model.init(keys, jnp.asarray(IMAGES), train=True))
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.7])


def test_an_unknown_block_is_an_error_that_names_the_known() -> None:
    with pytest.raises(ValueError, match=r"model\.block 'drak'; did you mean 'dark'"):
        create(block="drak").init(jax.random.key(0), IMAGES, train=False)
