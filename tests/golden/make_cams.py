"""Writes `inspect/grad_cam.json`: Grad-CAM by pytorch-grad-cam, of networks with filled weights.

    python -m tests.golden.make_cams

Needs torch, torchvision, timm and grad-cam. The networks compute in float64.
"""

import importlib.metadata
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
import torchvision
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from tests.golden import fill

FILE = Path(__file__).parent / "inspect" / "grad_cam.json"
PACKAGES = ("grad-cam", "torch", "torchvision", "timm")
TARGETS = (3, 7)  # one class for each image
GAIN = 2.0  # variance of kernels times the fan-in
EVERY = 5  # The file has every fifth row and column of the maps.


class Case(NamedTuple):
    """A network.

    Attributes:
      name: our name.
      model: the reference.
      stage: our name of the stage.
      layer: the reference's layer.
      size: height and width of the images.
      tokens: rows and columns of a layer that returns tokens with a class token.
      last: True if the layer's channels are the last axis.
    """

    name: str
    model: torch.nn.Module
    stage: str
    layer: torch.nn.Module
    size: tuple[int, int]
    tokens: tuple[int, int] | None = None
    last: bool = False


def cases() -> list[Case]:
    """Returns the networks, with ten classes each."""
    resnet = torchvision.models.resnet18(num_classes=10)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=10, img_size=(96, 64))
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=10)
    return [
        Case("resnet18", resnet, "stage4", resnet.layer4[-1], (160, 96)),
        Case("resnet18", resnet, "stage2", resnet.layer2[-1], (160, 96)),
        Case(
            *("vit_tiny_patch16_224", vit, "blocks_11/norm1", vit.blocks[-1].norm1),
            *((96, 64), (6, 4)),
        ),
        # Our stage3 is the output of block 8, counted from 0, without the class token.
        Case("vit_tiny_patch16_224", vit, "stage3", vit.blocks[8], (96, 64), (6, 4)),
        Case(
            *("swin_tiny_patch4_window7_224", swin, "stage4", swin.layers[-1]),
            *((224, 224), None, True),
        ),
    ]


def main() -> None:
    """Writes the file."""
    source = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    content = {
        "source": source,
        "gain": GAIN,
        "targets": TARGETS,
        "every": EVERY,
        "cases": [described(case) for case in cases()],
    }
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(content, separators=(",", ":")) + "\n")


def described(case: Case) -> dict[str, Any]:
    """Returns the weights' names and shapes, and the maps, of one network."""
    state = {
        name: tensor
        for name, tensor in case.model.state_dict().items()
        if tensor.is_floating_point() and "relative_position_index" not in name
    }
    filled = {
        name: torch.tensor(fill.weight(name, (*tensor.shape,), GAIN))
        for name, tensor in state.items()
    }
    case.model.double().load_state_dict(filled, strict=False)
    images = torch.tensor(fill.images((len(TARGETS), *case.size, 3))).permute(0, 3, 1, 2)

    def as_maps(values: torch.Tensor) -> torch.Tensor:
        if case.tokens is not None:
            values = values[:, 1:].reshape(len(values), *case.tokens, -1)
        return values.permute(0, 3, 1, 2)

    reshape = as_maps if case.tokens is not None or case.last else None
    targets = [ClassifierOutputTarget(target) for target in TARGETS]
    with GradCAM(case.model, [case.layer], reshape_transform=reshape) as method:
        maps = method(images, targets)
    shown = maps[:, ::EVERY, ::EVERY]
    return {
        "name": case.name,
        "stage": case.stage,
        "size": case.size,
        "state": [[name, list(tensor.shape)] for name, tensor in state.items()],
        "maps": np.round(shown.astype(np.float64), 6).tolist(),
        "mean": float(maps.mean(dtype=np.float64)),
    }


if __name__ == "__main__":
    main()
