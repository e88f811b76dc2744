"""Writes `data/adapted.json` and `data/published.json`: values of timm, torchvision and torch.

    python -m tests.pretrained.make_adapted NAME...

The arguments are the names of `cnn_jax.pretrained.families.tables.published()`. Needs torch,
torchvision and timm. Arrays and images are those of `tests/golden/fill.py`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.golden import fill

DATA = Path(__file__).parent / "data"
SCRIPT = "tests/pretrained/make_adapted.py"
POSITIONS = (((4, 4), (7, 7)), ((7, 7), (4, 4)), ((4, 4), (3, 6)), ((2, 6), (5, 5)))
TABLES = (((7, 7), (12, 12)), ((7, 7), (6, 6)), ((7, 7), (4, 7)), ((4, 4), (9, 6)))
MAPS = (((7, 7), (2, 2)), ((7, 7), (1, 1)), ((6, 6), (8, 8)), ((6, 6), (5, 9)), ((3, 3), (7, 3)))
CHANNELS = ((3, 1), (3, 2), (3, 4), (3, 7), (1, 3), (4, 1))
# Size of the weights, size of the images.
VIT = ((32, 32), (48, 24))
SWIN = (((56, 56), (64, 32)), ((48, 48), (56, 56)))
# Our names, where those of timm and torchvision differ.
TIMM = {"xception": "legacy_xception", "senet154": "legacy_senet154"}
TORCHVISION = {
    "alexnet_owt": "alexnet",
    "googlenet_bn": "googlenet",
    "mobilenetv2_100": "mobilenet_v2",
    "mobilenetv3_large_100": "mobilenet_v3_large",
    "mobilenetv3_small_100": "mobilenet_v3_small",
    "swin_tiny_patch4_window7_224": "swin_t",
    "swin_small_patch4_window7_224": "swin_s",
    "swin_base_patch4_window7_224": "swin_b",
    "vit_base_patch16_224": "vit_b_16",
}
# Networks whose usual weights are torchvision's, though timm has them, too.
FIRST_IN_TORCHVISION = ("densenet", "inception_v3", "resnet", "resnext", "vgg", "wide_resnet")
ONLY_IN_TIMM = ("resnet50d", "resnetv2_50", "resnetv2_101", "resnetv2_152")


def main() -> None:
    """Writes the files."""
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. Transforms use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    import timm
    import torchvision

    source = f"timm {timm.__version__}, torchvision {torchvision.__version__}"
    found = {
        "source": f"{source}, torch {torch.__version__}",
        "script": SCRIPT,
        "positions": list(_positions()),
        "tables": list(_tables()),
        "maps": list(_maps()),
        "channels": list(_channels()),
        "vit": _vit(*VIT),
        "swin": [_swin(*sizes) for sizes in SWIN],
    }
    (DATA / "adapted.json").write_text(json.dumps(found, separators=(",", ":")))
    names = sys.argv[1:]
    values = {
        "source": source,
        "script": SCRIPT,
        "timm": dict(_published_by_timm(names)),
        "torchvision": dict(_published_by_torchvision(names)),
    }
    (DATA / "published.json").write_text(json.dumps(values, separators=(",", ":")))


def _floats(array: Any) -> list[float]:
    """Returns the values with the digits of float32."""
    return [float(str(value)) for value in np.asarray(array, np.float32).flatten()]


def _tensor(name: str, shape: tuple[int, ...]) -> Any:
    import torch

    return torch.tensor(fill.uniform(name, shape), dtype=torch.float32)


def _positions() -> Iterator[Any]:
    """Yields resampled position embeddings of 2 channels, with a class token."""
    from timm.layers import resample_abs_pos_embed

    for old, new in POSITIONS:
        given = _tensor("positions", (1, 1 + old[0] * old[1], 2))
        found = resample_abs_pos_embed(given, list(new), list(old))
        yield {"old": old, "new": new, "values": _floats(found)}


def _tables() -> Iterator[Any]:
    """Yields resampled tables of 2 heads, as timm stores them."""
    from timm.layers import resize_rel_pos_bias_table

    for old, new in TABLES:
        lengths = [(2 * size[0] - 1) * (2 * size[1] - 1) for size in (old, new)]
        given = _tensor("table", (lengths[0], 2))
        found = resize_rel_pos_bias_table(given, new, (lengths[1], 2))
        yield {"old": old, "new": new, "values": _floats(found)}


def _maps() -> Iterator[Any]:
    """Yields outputs of a dense layer after torch's adaptive average pooling."""
    import torch

    for old, new in MAPS:
        weight = _tensor("fc6", (3, 2 * old[0] * old[1]))
        maps = torch.nn.AdaptiveAvgPool2d(old)(_tensor("maps", (2, 2, *new)))
        yield {"old": old, "new": new, "values": _floats(maps.flatten(1) @ weight.T)}


def _channels() -> Iterator[Any]:
    """Yields first kernels `[2, I, 1, 3]` for other channels."""
    from timm.models import adapt_input_conv

    for old, new in CHANNELS:
        found = adapt_input_conv(new, _tensor("kernel", (2, old, 1, 3)), base_chans=old)
        yield {"old": old, "new": new, "values": _floats(found)}


def _vit(old: tuple[int, int], new: tuple[int, int]) -> Any:
    """Returns logits of a small ViT with resampled positions, of grey images."""
    from timm.models import vision_transformer

    return _logits(
        lambda size, channels: vision_transformer.VisionTransformer(
            img_size=size,
            patch_size=8,
            in_chans=channels,
            num_classes=3,
            embed_dim=8,
            depth=1,
            num_heads=2,
        ),
        vision_transformer.checkpoint_filter_fn,
        (old, new),
        1,
        "patch_embed.proj.weight",
    )


def _swin(old: tuple[int, int], new: tuple[int, int]) -> Any:
    """Returns logits of a small Swin with resampled tables."""
    from timm.models import swin_transformer

    return _logits(
        lambda size, channels: swin_transformer.SwinTransformer(
            img_size=size,
            in_chans=channels,
            num_classes=3,
            embed_dim=8,
            depths=(2, 2),
            num_heads=(2, 2),
        ),
        swin_transformer.checkpoint_filter_fn,
        (old, new),
        3,
        "patch_embed.proj.weight",
    )


def _logits(build: Any, filtered: Any, sizes: Any, channels: int, first: str) -> Any:
    """Returns logits of weights for one size on images of another size and channels."""
    import torch
    from timm.models import adapt_input_conv

    given = build(sizes[0], 3).state_dict()
    state = {name: torch.tensor(fill.weight(name, array.shape)) for name, array in given.items()}
    state = {name: array.float() for name, array in state.items()}
    model = build(sizes[1], channels).eval()
    state = filtered(state, model)
    state[first] = adapt_input_conv(channels, state[first])
    model.load_state_dict(state)
    images = fill.images((2, *sizes[1], channels)).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(torch.tensor(images, dtype=torch.float32))
    return {
        "old": sizes[0],
        "new": sizes[1],
        "channels": channels,
        "state": {name: list(array.shape) for name, array in given.items()},
        "logits": logits.tolist(),
    }


def _published_by_timm(names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields the evaluation transforms of timm's first tag of each network."""
    import timm
    from timm import data

    for name in names:
        theirs = TIMM.get(name, name)
        if not timm.is_model(theirs) or (
            name.startswith(FIRST_IN_TORCHVISION) and name not in ONLY_IN_TIMM
        ):
            continue
        config = timm.get_pretrained_cfg(theirs)
        assert config is not None
        options = data.resolve_data_config(pretrained_cfg=config.to_dict())
        resize = data.create_transform(**options).transforms[0].size
        yield (
            name,
            {
                "tag": config.tag,
                "input_size": options["input_size"],
                "resize_size": resize[0] if isinstance(resize, (list, tuple)) else resize,
                "squash": options["crop_mode"] == "squash",
                "mean": options["mean"],
                "std": options["std"],
                "interpolation": options["interpolation"],
            },
        )


def _published_by_torchvision(names: list[str]) -> Iterator[tuple[str, Any]]:
    """Yields the transforms of the first weights that torchvision released for each network."""
    from torchvision import models

    known = models.list_models(module=models)
    for name in names:
        theirs = TORCHVISION.get(name, name)
        if theirs in known:
            weights = next(iter(models.get_model_weights(theirs)))
            transforms = weights.transforms()
            yield (
                name,
                {
                    "tag": weights.name,
                    "input_size": [3, *transforms.crop_size * 2],
                    "resize_size": transforms.resize_size[0],
                    "squash": False,
                    "mean": transforms.mean,
                    "std": transforms.std,
                    "interpolation": transforms.interpolation.value,
                },
            )


if __name__ == "__main__":
    main()
