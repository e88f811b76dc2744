"""Writes `policies/mixing.json`: boxes of CutMix and mixed batches of torchvision and timm.

    python -m tests.golden.make_mixing

Needs torch, torchvision and timm.
"""

import json
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.golden import fill

SHARES = (0.001, 0.03, 0.2, 0.37, 0.5, 0.61, 0.83, 0.99)
CENTRES = ((0.0, 0.0), (0.1, 0.9), (0.5, 0.5), (0.3, 0.6), (0.97, 0.02), (0.999, 0.999))
SIZES = ((32, 32), (31, 45), (224, 224), (5, 3))
BOX = (1, 2, 4, 6)  # first row and column, and those after the last
SHARE = 0.3
FILE = Path(__file__).parent / "policies" / "mixing.json"


def main() -> None:
    """Writes the file."""
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. Transforms use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    import timm
    import torchvision
    from torchvision.transforms import v2

    found = {
        "source": f"torchvision {torchvision.__version__}, timm {timm.__version__}",
        "script": "tests/golden/make_mixing.py",
        "torchvision": {"boxes": list(_torchvision_boxes(v2)), "mixed": _torchvision_mixed(v2)},
        "timm": {"boxes": list(_timm_boxes()), "mixed": _timm_mixed()},
    }
    FILE.write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Returns images `[4, 6, 7, 3]` float32 and labels `[4]` for mixing."""
    return fill.uniform("mixing", (4, 6, 7, 3)).astype(np.float32), np.array([2, 0, 1, 2])


def _box_cases() -> Iterator[tuple[tuple[int, int], float, list[int]]]:
    for size in SIZES:
        for share in SHARES:
            for row, column in CENTRES:
                yield size, share, [int(row * size[0]), int(column * size[1])]


def _torchvision_boxes(v2: Any) -> Iterator[list[Any]]:
    """Yields size, share of the box, centre, box (y1, x1, y2, x2) and share of the target."""
    import torch

    cut = v2.CutMix(num_classes=2)
    for (height, width), share, centre in _box_cases():
        cut._dist = types.SimpleNamespace(sample=lambda _, share=share: torch.tensor(1 - share))
        draws = [torch.tensor([centre[1]]), torch.tensor([centre[0]])]
        with mock.patch("torch.randint", side_effect=draws):
            found = cut.make_params([torch.zeros(2, 3, height, width)])
        left, top, right, bottom = found["box"]
        yield [
            [height, width],
            share,
            centre,
            [top, left, bottom, right],
            1 - found["lam_adjusted"],
        ]


def _torchvision_mixed(v2: Any) -> dict[str, Any]:
    """Returns the batch after mixup with the share `SHARE`, and after CutMix with `BOX`."""
    import torch

    pixels, labels = batch()
    images, classes = torch.from_numpy(pixels).permute(0, 3, 1, 2), torch.from_numpy(labels)
    mixup, cut = v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)
    top, left, bottom, right = BOX
    result = {}
    for name, transform, params in (
        ("mixup", mixup, {"lam": 1 - SHARE}),
        ("cutmix", cut, {"box": (left, top, right, bottom), "lam_adjusted": 1 - 12 / 42}),
    ):
        with mock.patch.object(transform, "make_params", lambda _, params=params: params):
            image, target = transform(images, classes)
        result[name] = [image.permute(0, 2, 3, 1).tolist(), target.tolist()]
    return result


def _timm_boxes() -> Iterator[list[Any]]:
    """Yields boxes as `_torchvision_boxes` does."""
    from timm.data import mixup

    for size, share, centre in _box_cases():
        with mock.patch("numpy.random.randint", side_effect=centre):
            (top, bottom, left, right), lam = mixup.cutmix_bbox_and_lam((4, 3, *size), 1 - share)
        yield [
            list(size),
            share,
            centre,
            list(map(int, (top, left, bottom, right))),
            float(1 - lam),
        ]


def _timm_mixed() -> dict[str, Any]:
    """Returns the batch after mixup with the share `SHARE`, and after CutMix with `BOX`."""
    import torch
    from timm.data import mixup

    pixels, labels = batch()
    top, left, bottom, right = BOX
    box = (top, bottom, left, right), 1 - 12 / 42
    result = {}
    for name in ("mixup", "cutmix"):
        mix = mixup.Mixup(num_classes=3, label_smoothing=0.0)
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).clone()
        drawn = (1 - SHARE, name == "cutmix")
        with (
            mock.patch.object(mix, "_params_per_batch", return_value=drawn),
            mock.patch.object(mixup, "cutmix_bbox_and_lam", return_value=box),
        ):
            image, target = mix(images, torch.from_numpy(labels))
        result[name] = [image.permute(0, 2, 3, 1).tolist(), target.tolist()]
    return result


if __name__ == "__main__":
    main()
