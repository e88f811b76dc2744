"""Tests of DenseNet: the widths of section 3 and the positions of dropout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from cnn_jax import models

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3))


def create(**overrides: Any) -> nn.Module:
    return models.create("densenet121", num_classes=10, growth=4, **overrides)


def test_blocks_add_the_growth_rate_and_transitions_compress() -> None:
    model = create(stage_sizes=(2, 3, 1, 2), compression=0.25)

    def widths() -> dict[str, jax.Array]:
        variables = model.init(jax.random.key(0), IMAGES, train=False)
        return models.features(model, variables, jnp.asarray(IMAGES))

    stages = jax.eval_shape(widths)
    # 8 + 2 * 4; 16 / 4 + 3 * 4; 16 / 4 + 4; 8 / 4 + 2 * 4.
    expected = {"stem": 8, "stage1": 16, "stage2": 16, "stage3": 8, "stage4": 10}
    assert {name: stage.shape[-1] for name, stage in stages.items()} == expected


def test_dropout_follows_every_convolution_but_the_first() -> None:
    model = create(stage_sizes=(2, 1), dropout_rate=0.2)
    called = []

    def record_call(
        call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name == "__call__":
            called.append((type(context.module).__name__, getattr(context.module, "rate", None)))
        return call(*args, **kwargs)

    with nn.intercept_methods(record_call):
        rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        jax.eval_shape(lambda: model.init(rngs, IMAGES, train=True))
    convolutions = [index for index, (name, _) in enumerate(called) if name == "Conv"]
    following = [called[index + 1] for index in convolutions]
    assert following == [("BatchNorm", None), *[("Dropout", 0.2)] * 7]
