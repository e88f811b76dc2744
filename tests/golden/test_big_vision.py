"""Comparison of the ViT with mean pooling and fixed positions with big_vision's.

`make_big_vision.py` writes the file.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax import models
from tests.golden import fill

FILE = Path(__file__).parent / "vit" / "big_vision.json"
OPTIONS = {
    "pooling": "mean",
    "positions": "sincos2d",
    "hidden_head": True,
    "approximate_gelu": True,
    "initialization": "big_vision",
}


def test_logits_equal_those_of_big_vision() -> None:
    golden = json.loads(FILE.read_text())
    params = {path: fill.parameter(path, tuple(shape)) for path, shape in golden["params"].items()}
    variables = {"params": traverse_util.unflatten_dict(params, sep="/")}
    logits = np.asarray(golden["logits"])
    model = models.create(
        "vit_small_patch16_224",
        num_classes=logits.shape[-1],
        dtype="float64",
        **golden["options"],
        **OPTIONS,
    )
    images = fill.images(tuple(golden["images"]))
    with jax.enable_x64(True):
        made = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.asarray(images), train=False)
        )
        found = jax.jit(model.apply, static_argnames="train")(variables, images, train=False)
    flat = traverse_util.flatten_dict(made["params"], sep="/")
    assert {path: list(leaf.shape) for path, leaf in flat.items()} == golden["params"]
    np.testing.assert_allclose(found, logits, rtol=0, atol=1e-13)
