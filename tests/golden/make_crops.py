"""Writes `crops/torchvision.json`: regions and pixels of torchvision's crops.

    python -m tests.golden.make_crops

Needs torch, torchvision and Pillow. The photograph is scikit-learn's; its path can be given.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL
from PIL import Image

SIZES = ((375, 500), (500, 375), (3000, 4000), (1, 1), (7, 3), (1, 60), (10, 1000), (1000, 10))
RANGES = (
    ((0.08, 1.0), (3 / 4, 4 / 3)),
    ((0.35, 0.35), (1.0, 1.0)),
    ((0.9, 1.0), (2.0, 3.0)),
)
SEEDS = range(4)
BOXES = ((0, 0, 427, 640), (3, 5, 200, 300), (100, 250, 45, 37), (10, 20, 400, 33), (0, 639, 1, 1))
INTERPOLATIONS = ("bilinear", "bicubic")
RESIZED = ((224, 224), (64, 96))
# Shorter side, crop, and the corner of a random crop.
SHORTER = ((256, (224, 224), (17, 100)), (73, (64, 64), (0, 44)), (256, (192, 320), (64, 63)))
FILE = Path(__file__).parent / "crops" / "torchvision.json"


def main() -> None:
    """Writes the file."""
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. Transforms use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    import torchvision

    photograph = _photograph()
    found = {
        "source": f"torchvision {torchvision.__version__}, torch {torch.__version__}, "
        f"Pillow {PIL.__version__}",
        "photograph": _sha256(photograph),
        "random_resized": list(_random_resized()),
        "resized_crop": list(_resized_crop(photograph)),
        "shorter": list(_shorter(photograph)),
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(found, separators=(",", ":")))


def _photograph() -> Image.Image:
    """Returns scikit-learn's china.jpg, 427 x 640 pixels."""
    if len(sys.argv) > 1:
        return Image.open(sys.argv[1]).convert("RGB")
    from sklearn import datasets

    return Image.fromarray(datasets.load_sample_image("china.jpg"))


def _random_resized() -> Any:
    """Yields the regions of RandomResizedCrop, with the numbers that torch drew for them."""
    import torch
    from torchvision.transforms import RandomResizedCrop

    uniform, randint = torch.Tensor.uniform_, torch.randint
    for height, width in SIZES:
        image = torch.zeros(1, height, width)
        for (scale, ratio), seed in ((pair, seed) for pair in RANGES for seed in SEEDS):
            uniforms: list[float] = []
            integers: list[int] = []

            def record_uniform(tensor: Any, *bounds: Any, kept: list[float] = uniforms) -> Any:
                drawn = uniform(tensor, *bounds)
                kept.append(drawn.item())
                return drawn

            def record_randint(*bounds: Any, kept: list[int] = integers, **options: Any) -> Any:
                drawn = randint(*bounds, **options)
                kept.append(drawn.item())
                return drawn

            torch.manual_seed(seed)
            with (
                mock.patch.object(torch.Tensor, "uniform_", record_uniform),
                mock.patch.object(torch, "randint", record_randint),
            ):
                box = RandomResizedCrop.get_params(image, list(scale), list(ratio))
            yield {
                "size": [height, width],
                "scale": scale,
                "ratio": ratio,
                "uniforms": uniforms,
                "integers": integers,
                "box": box,
            }


def _resized_crop(photograph: Image.Image) -> Any:
    """Yields the pixels of `resized_crop`."""
    from torchvision.transforms import InterpolationMode, functional

    for picture in (photograph, photograph.convert("L")):
        for box, size, name in (
            (box, size, name) for box in BOXES for size in RESIZED for name in INTERPOLATIONS
        ):
            made = functional.resized_crop(picture, *box, size, InterpolationMode(name))
            yield {
                "channels": len(picture.getbands()),
                "box": box,
                "size": size,
                "interpolation": name,
                "pixels": _sha256(made),
            }


def _shorter(photograph: Image.Image) -> Any:
    """Yields the pixels of Resize and CenterCrop, and of Resize and a crop at a corner."""
    from torchvision.transforms import InterpolationMode, functional

    upright = photograph.transpose(Image.Transpose.TRANSPOSE)
    for turned, channels in ((False, 3), (True, 3), (False, 1)):
        picture = upright if turned else photograph
        picture = picture.convert("L") if channels == 1 else picture
        for (side, size, corner), name in (
            (row, name) for row in SHORTER for name in INTERPOLATIONS
        ):
            step = -1 if turned else 1
            resized = functional.resize(picture, side, InterpolationMode(name))
            yield {
                "turned": turned,
                "channels": channels,
                "shorter_side": side,
                "size": size[::step],
                "interpolation": name,
                "resized": functional.get_dimensions(resized)[1:],
                "centre": _sha256(functional.center_crop(resized, size[::step])),
                "corner": corner[::step],
                "random": _sha256(functional.crop(resized, *corner[::step], *size[::step])),
            }


def _sha256(picture: Image.Image) -> str:
    return hashlib.sha256(np.asarray(picture).tobytes()).hexdigest()


if __name__ == "__main__":
    main()
