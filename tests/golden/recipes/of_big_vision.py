"""Recipe of big_vision: configs/vit_s16_i1k.py, utils.py, optax.py and models/vit.py."""

import importlib
import re
import sys
from collections.abc import Iterator
from typing import Any

from tests.golden.recipes import parts
from tests.golden.recipes.parts import IMAGES, Recipe


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yields the recipe of ViT-S/16."""
    importlib.import_module("flax.training.checkpoints")  # Before TensorFlow seems installed.
    parts.stub("tensorflow.io.gfile")
    parts.stub("tensorflow.io", gfile=sys.modules["tensorflow.io.gfile"])
    parts.stub("tensorflow", io=sys.modules["tensorflow.io"])
    config = importlib.import_module("big_vision.configs.vit_s16_i1k").get_config()
    yield "vit_small_patch16_224", _big_vision(config)


def _big_vision(config: Any) -> Recipe:
    import jax

    utils = importlib.import_module("big_vision.utils")
    make = importlib.import_module("big_vision.optax").make
    vit = importlib.import_module("big_vision.models.vit")
    images = int(IMAGES * 0.99)  # train[:99%]
    batch = config.input.batch_size
    total = utils.steps("total", config, images, batch)
    model = vit.Model(config.num_classes, **config.model)
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    shapes = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    keywords = {"total_steps": total, "batch_size": batch, "data_size": images}
    _, (schedule,) = make(config, shapes, sched_kw=keywords)
    (mask,) = utils.make_mask_trees(shapes, [".*/kernel$"])
    decayed = [
        leaf.size
        for leaf, decays in zip(jax.tree.leaves(shapes), jax.tree.leaves(mask), strict=True)
        if decays
    ]
    per_epoch = images // batch
    warmup = config.schedule.warmup_steps
    steps = parts.steps(total, per_epoch, warmup / per_epoch, 45)
    crop, _, policy, *_ = config.input.pp.split("|")
    layers, magnitude = map(int, re.findall(r"\d+", policy))
    return {
        "epochs": config.total_epochs,
        "total_steps": total,
        "steps_per_epoch": per_epoch,
        "batch_size": batch,
        "rule": config.optax_name,
        "rates": parts.rates(steps, lambda step: config.lr * float(schedule(step))),
        "decayed": parts.sizes(decayed),
        "weight_decay": config.wd / config.lr,  # Here, the rate multiplies it, too.
        # get_decode_jpeg_and_inception_crop has these defaults.
        "crop": {"size": int(crop[-4:-1]), "scale": [0.05, 1.0], "ratio": [0.75, 1.33]},
        "flip": 0.5,
        "policy": {"name": "big_vision", "layers": layers, "magnitude": magnitude},
        "mixing": {
            "mixup": config.mixup.p,
            "cutmix": 0.0,
            "probability": 1.0,
            "convention": "big_vision",
        },
        "evaluation": {"shorter_side": 256, "size": 224},
        "clip_norm": config.grad_clip_norm,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(shapes)),
    }
