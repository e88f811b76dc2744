"""Writes `vit/big_vision.json`: a small ViT of big_vision, in float64.

    python -m tests.golden.make_big_vision VIT

VIT is the path of big_vision/models/vit.py in a clone of github.com/google-research/big_vision.
Needs JAX and Flax. Other modules of big_vision are not loaded.
"""

import hashlib
import json
import sys
from importlib import metadata, util
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from tests.golden import fill

FILE = Path(__file__).parent / "vit" / "big_vision.json"
WIDTH, DEPTH, HEADS, PATCH, CLASSES = 12, 2, 3, 4, 5
IMAGES = (2, 8, 12, 3)
# The options of the network `vit_small_patch16_224` in configs/vit_s16_i1k.py.
OPTIONS = {"rep_size": True, "pool_type": "gap", "posemb": "sincos2d"}
_BLOCK = {
    "norm1": "LayerNorm_0",
    "attn/proj": "MultiHeadDotProductAttention_0/out",
    "norm2": "LayerNorm_1",
    "mlp/fc1": "MlpBlock_0/Dense_0",
    "mlp/fc2": "MlpBlock_0/Dense_1",
}
_OTHERS = {
    "patch_embed_proj": "embedding",
    "norm": "Transformer/encoder_norm",
    "pre_logits": "pre_logits",
    "head": "head",
}


def main() -> None:
    """Writes the file."""
    path = Path(sys.argv[1])
    model = load(path)._Model(
        CLASSES,
        patch_size=(PATCH, PATCH),
        width=WIDTH,
        depth=DEPTH,
        num_heads=HEADS,
        dtype_mm="float64",
        **OPTIONS,
    )
    with jax.enable_x64(True):
        images = jnp.asarray(fill.images(IMAGES))
        shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
        given = parameters(traverse_util.flatten_dict(shapes, sep="/"))
        params = traverse_util.unflatten_dict(theirs(given), sep="/")
        logits = model.apply({"params": params}, images)[0]
    found = {
        "source": f"big_vision, vit.py {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}, "
        f"Flax {metadata.version('flax')}",
        "images": IMAGES,
        "options": {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "patch_size": PATCH},
        "params": {name: list(value.shape) for name, value in given.items()},
        "logits": np.asarray(logits).tolist(),
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, separators=(",", ":")))


def load(path: Path) -> Any:
    """Imports vit.py with empty modules in place of the rest of big_vision."""
    names = ("big_vision", "big_vision.utils", "big_vision.models", "big_vision.models.common")
    spec = util.spec_from_file_location("big_vision_vit", path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    packages = {name: ModuleType(name) for name in names}
    with mock.patch.dict(sys.modules, packages):
        spec.loader.exec_module(module)
    return module


def parameters(shapes: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns the values of all parameters by the path in a network of this package."""
    found: dict[str, tuple[int, ...]] = {}
    for ours, path in names().items():
        for last in ("kernel", "bias", "scale"):
            if f"{path}/{last}" in shapes:
                found[f"{ours}/{last}"] = shapes[f"{path}/{last}"].shape
    for block in range(DEPTH):
        found[f"blocks_{block}/attn/proj/kernel"] = (WIDTH, WIDTH)
        found[f"blocks_{block}/attn/qkv/kernel"] = (WIDTH, 3 * WIDTH)
        found[f"blocks_{block}/attn/qkv/bias"] = (3 * WIDTH,)
    return {name: fill.parameter(name, shape) for name, shape in found.items()}


def theirs(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the parameters by the path in big_vision's network."""
    paths, heads = names(), (HEADS, WIDTH // HEADS)
    found = {}
    for name, value in given.items():
        module, _, last = name.rpartition("/")
        if module.endswith("/qkv"):
            attention = f"Transformer/{encoder(module)}/MultiHeadDotProductAttention_0"
            for part, array in zip(
                ("query", "key", "value"), np.split(value, 3, axis=-1), strict=True
            ):
                found[f"{attention}/{part}/{last}"] = array.reshape(*array.shape[:-1], *heads)
        elif module.endswith("/proj") and last == "kernel":
            found[f"{paths[module]}/{last}"] = value.reshape(*heads, WIDTH)
        else:
            found[f"{paths[module]}/{last}"] = value
    return found


def names() -> dict[str, str]:
    """Returns the path of each module in big_vision's network, except for `qkv`."""
    blocks = {
        f"blocks_{block}/{ours}": f"Transformer/encoderblock_{block}/{path}"
        for block in range(DEPTH)
        for ours, path in _BLOCK.items()
    }
    return {**blocks, **_OTHERS}


def encoder(module: str) -> str:
    return module.partition("/")[0].replace("blocks_", "encoderblock_")


if __name__ == "__main__":
    main()
