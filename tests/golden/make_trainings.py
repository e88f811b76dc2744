"""Writes `trainings/*.json`: small networks after 20 training steps by torch, in float64.

    python -m tests.golden.make_trainings

Needs torch and timm. Each file has one network under SGD, RMSProp and AdamW, with warm-up, a
schedule and weight decay. Names and layouts of the parameters are Flax's. Running variances are
converted from torch's unbiased ones to the biased ones of this package.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from timm.models import _efficientnet_blocks as blocks
from torch import nn
from torch.optim import lr_scheduler

from tests.golden import fill

FOLDER = Path(__file__).parent / "trainings"
STEPS, BATCH, CLASSES = 20, 6, 5
WARMUP, WARMUP_FACTOR = 5, 0.1
MOMENTUM = 0.9  # share of the old running statistics
# Some gradients are zero but for rounding, such as those of biases before a normalisation. With a
# small eps, RMSProp and AdamW would turn the rounding into updates.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-3},
    "rmsprop": {
        "learning_rate": 0.004,
        "momentum": 0.9,
        "rms_decay": 0.95,
        "eps": 1e-2,
        "weight_decay": 1e-3,
    },
    "adamw": {"learning_rate": 0.01, "b1": 0.9, "b2": 0.98, "eps": 1e-2, "weight_decay": 0.1},
}
SCHEDULES: dict[str, dict[str, Any]] = {
    "sgd": {"name": "cosine"},
    "rmsprop": {"name": "exponential", "decay_factor": 0.9},
    "adamw": {"name": "cosine"},
}


class LeNet(nn.Module):
    """Two convolutions with batch normalisation and average pooling, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.C1, self.bn1 = nn.Conv2d(1, 4, 5, bias=False), nn.BatchNorm2d(4)
        self.C3, self.bn3 = nn.Conv2d(4, 6, 5, bias=False), nn.BatchNorm2d(6)
        self.F5, self.output = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.avg_pool2d(torch.relu(self.bn1(self.C1(x))), 2)
        x = nn.functional.avg_pool2d(torch.relu(self.bn3(self.C3(x))), 2)
        return self.output(torch.relu(self.F5(x.flatten(1))))


class BasicBlock(nn.Module):
    """Residual block of He et al. 2015, Fig. 5, left; its shortcut adds channels of zeros."""

    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.added = stride, channels - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        before = self.added // 2
        shortcut = x[:, :, :: self.stride, :: self.stride]
        shortcut = nn.functional.pad(shortcut, (0, 0, 0, 0, before, self.added - before))
        return torch.relu(y + shortcut)


class ResNet(nn.Module):
    """ResNet for CIFAR with two stages of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.layer1_0, self.layer2_0 = BasicBlock(4, 4, 1), BasicBlock(4, 7, 2)
        self.fc = nn.Linear(7, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer2_0(self.layer1_0(torch.relu(self.bn1(self.conv1(x)))))
        return self.fc(x.mean((2, 3)))


class Mobile(nn.Module):
    """Two inverted residual blocks of timm, with squeeze-and-excitation and SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem_conv, self.stem_bn = nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6)
        squeeze = partial(blocks.SqueezeExcite, rd_channels=2, force_act_layer=nn.SiLU)
        block = partial(blocks.InvertedResidual, 6, exp_ratio=2.0, act_layer=nn.SiLU)
        self.block1 = block(6, dw_kernel_size=3, se_layer=squeeze)
        self.block2 = block(8, dw_kernel_size=5, stride=2, se_layer=squeeze)
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block1(nn.functional.silu(self.stem_bn(self.stem_conv(x))))
        return self.classifier(self.block2(x).mean((2, 3)))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "lenet": (LeNet, (16, 16, 1)),
    "mobile": (Mobile, (12, 12, 3)),
    "resnet": (ResNet, (8, 8, 3)),
}
_PATHS = {  # torch's and timm's names, and those of this package
    "stem_conv": "stem/conv",
    "stem_bn": "stem/bn",
    "conv_pw": "expand/conv",
    "bn1": "expand/bn",
    "conv_dw": "depthwise/conv",
    "bn2": "depthwise/bn",
    "conv_pwl": "project/conv",
    "bn3": "project/bn",
    "conv_reduce": "reduce",
    "conv_expand": "expand",
}
_STATISTICS = {"running_mean": "mean", "running_var": "var"}


def main() -> None:
    """Writes the files."""
    torch.set_default_dtype(torch.float64)
    FOLDER.mkdir(exist_ok=True)
    for name, (build, shape) in NETWORKS.items():
        found = {
            "source": f"torch {torch.__version__}, timm {timm.__version__}",
            "images": [STEPS, BATCH, *shape],
            "classes": CLASSES,
            "runs": [trained(name, build(), shape, optimizer) for optimizer in OPTIMIZERS],
        }
        (FOLDER / f"{name}.json").write_text(json.dumps(found, separators=(",", ":")))


def trained(
    network: str, model: nn.Module, shape: tuple[int, int, int], optimizer: str
) -> dict[str, Any]:
    """Returns options, rates, losses, parameters and statistics of a training."""
    named = {path_of(network, name): value for name, value in model.named_parameters()}
    with torch.no_grad():
        for path, value in named.items():
            value.copy_(to_torch(fill.parameter(path, to_flax(value).shape)))
    rule = make_optimizer(optimizer, named)
    schedule = make_schedule(optimizer, rule)
    counts = count_values(model)
    images = fill.uniform("images", (STEPS, BATCH, *shape))
    rates, losses = [], []
    for step, batch in enumerate(images):
        labels = torch.as_tensor((np.arange(BATCH) + step) % CLASSES)
        logits = model(torch.as_tensor(batch.transpose(0, 3, 1, 2).copy()))
        loss = nn.functional.cross_entropy(logits, labels)
        rule.zero_grad()
        loss.backward()
        rule.step()
        rates.append(rule.param_groups[0]["lr"])
        losses.append(loss.item())
        schedule.step()
    return {
        "optimizer": {"name": optimizer, **OPTIMIZERS[optimizer]},
        "schedule": {
            **SCHEDULES[optimizer],
            "warmup_epochs": WARMUP,
            "warmup_factor": WARMUP_FACTOR,
            "warmup_first_step": 0,
        },
        "rates": rates,
        "losses": losses,
        "params": {path: to_flax(value).tolist() for path, value in named.items()},
        "batch_stats": statistics(network, model, counts),
    }


def make_optimizer(name: str, parameters: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    """Returns the optimizer, with weight decay of the kernels only."""
    options = OPTIMIZERS[name]
    kernels = [value for path, value in parameters.items() if path.endswith("/kernel")]
    others = [value for path, value in parameters.items() if not path.endswith("/kernel")]
    groups = [
        {"params": kernels, "weight_decay": options["weight_decay"]},
        {"params": others, "weight_decay": 0.0},
    ]
    rate = options["learning_rate"]
    if name == "sgd":
        return torch.optim.SGD(groups, rate, momentum=options["momentum"], nesterov=True)
    if name == "rmsprop":
        return torch.optim.RMSprop(
            groups, rate, options["rms_decay"], options["eps"], momentum=options["momentum"]
        )
    return torch.optim.AdamW(groups, rate, (options["b1"], options["b2"]), options["eps"])


def make_schedule(name: str, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Returns a linear warm-up, followed by the optimizer's schedule."""
    options = SCHEDULES[name]
    warmup = lr_scheduler.LinearLR(optimizer, WARMUP_FACTOR, total_iters=WARMUP)
    after: lr_scheduler.LRScheduler
    if options["name"] == "cosine":
        after = lr_scheduler.CosineAnnealingLR(optimizer, STEPS - WARMUP)
    else:
        after = lr_scheduler.ExponentialLR(optimizer, options["decay_factor"])
    return lr_scheduler.SequentialLR(optimizer, [warmup, after], [WARMUP])


def count_values(model: nn.Module) -> dict[str, int]:
    """Records the number of values per channel of each normalisation during the training."""
    counts: dict[str, int] = {}

    def record(name: str, module: nn.Module, inputs: Any, _: Any) -> None:
        counts[name] = inputs[0].numel() // inputs[0].shape[1]

    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(partial(record, name))
    return counts


def statistics(network: str, model: nn.Module, counts: dict[str, int]) -> dict[str, Any]:
    """Returns the running statistics, with biased variances."""
    found = {}
    for name, value in model.named_buffers():
        module, _, last = name.rpartition(".")
        if last not in _STATISTICS:
            continue
        array, count = value.numpy(), counts[module]
        if last == "running_var":
            start = MOMENTUM**STEPS  # the share of the initial value 1
            array = start + (array - start) * (count - 1) / count
        found[path_of(network, name)] = array.tolist()
    return found


def path_of(network: str, name: str) -> str:
    """Returns the path of a parameter or statistic in a tree of this package."""
    *modules, last = name.split(".")
    is_norm = modules[-1].startswith("bn") or modules[-1].endswith("_bn")
    if network == "mobile":
        modules = [_PATHS.get(module, module) for module in modules]
    if last == "weight":
        last = "scale" if is_norm else "kernel"
    return "/".join([*modules, _STATISTICS.get(last, last)])


def to_flax(value: torch.Tensor) -> np.ndarray:
    """Returns a parameter in Flax's layout."""
    array = value.detach().numpy()
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def to_torch(array: np.ndarray) -> torch.Tensor:
    """Returns a parameter in torch's layout."""
    array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
    return torch.as_tensor(array.copy())


if __name__ == "__main__":
    main()
