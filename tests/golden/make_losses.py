"""Writes `losses/references.json`: losses and gradients by torch, timm and torchvision.

    python -m tests.golden.make_losses

Needs torch, torchvision and timm. All values are computed in float64.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

FILE = Path(__file__).parent / "losses" / "references.json"
BATCH, CLASSES = 6, 5
LAMBDA = 0.3  # share of the image in a mixed one; `mixup_target` pairs it with the flipped batch
TEMPERATURE = 4.0

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.normal(size=(BATCH, CLASSES))
TEACHER = 3 * RNG.normal(size=(BATCH, CLASSES))
LABELS = RNG.integers(0, CLASSES, BATCH)


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return functional.one_hot(labels, CLASSES).to(torch.float64)


def mixed(smoothing: float) -> torch.Tensor:
    """Returns the targets of timm's `Mixup`."""
    target: torch.Tensor = mixup_target(torch.tensor(LABELS), CLASSES, LAMBDA, smoothing)
    return target


def soft_distillation(x: torch.Tensor) -> torch.Tensor:
    """Hinton et al. 2015, section 2: T^2 times the divergence of the softened distributions."""
    teacher = (torch.tensor(TEACHER) / TEMPERATURE).log_softmax(-1)
    student = (x / TEMPERATURE).log_softmax(-1)
    divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * TEMPERATURE**2


CASES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross_entropy, smoothing 0.1": lambda x, y: functional.cross_entropy(
        x, y, label_smoothing=0.1
    ),
    "cross_entropy, mixed, smoothing 0.1": lambda x, y: SoftTargetCrossEntropy()(x, mixed(0.1)),
    "binary_cross_entropy": BinaryCrossEntropy(0.0),
    "binary_cross_entropy, smoothing 0.1": BinaryCrossEntropy(0.1),
    "binary_cross_entropy, sum": BinaryCrossEntropy(0.0, sum_classes=True),
    "binary_cross_entropy, mixed, smoothing 0.1": lambda x, y: BinaryCrossEntropy(0.1)(
        x, mixed(0.1)
    ),
    "binary_cross_entropy, mixed, threshold 0.2": lambda x, y: BinaryCrossEntropy(
        0.0, target_threshold=0.2
    )(x, mixed(0.0)),
    "focal": lambda x, y: sigmoid_focal_loss(x, one_hot(y), reduction="mean"),
    "focal, gamma 0.5, no alpha": lambda x, y: sigmoid_focal_loss(
        x, one_hot(y), alpha=-1, gamma=0.5, reduction="mean"
    ),
    "focal, mixed, sum": lambda x, y: sigmoid_focal_loss(x, mixed(0.0)).sum(-1).mean(),
    "distillation, soft": lambda x, y: soft_distillation(x),
    "distillation, hard": lambda x, y: functional.cross_entropy(
        x, torch.tensor(TEACHER).argmax(-1)
    ),
}


def run(function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    x = torch.tensor(LOGITS, requires_grad=True)
    value = function(x, torch.tensor(LABELS))
    value.backward()
    return {"value": value.item(), "gradient": x.grad.tolist()}


def main() -> None:
    """Writes the file."""
    torch.set_default_dtype(torch.float64)  # timm makes targets of the default dtype.
    content = {
        "made_with": {
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "timm": timm.__version__,
        },
        "logits": LOGITS.tolist(),
        "teacher": TEACHER.tolist(),
        "labels": LABELS.tolist(),
        "mixed": mixed(0.0).tolist(),
        "cases": {name: run(function) for name, function in CASES.items()},
    }
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
