"""Recipes of torchvision's README, by the classes that its references/classification call."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

from tests.golden.recipes import parts
from tests.golden.recipes.parts import IMAGES, Recipe


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yields the recipes of torchvision's README, by the classes that its train.py calls."""
    import torchvision as tv

    yield "alexnet_owt", _stepped(tv.models.alexnet(), 0.01)
    yield "resnet50_torchvision_v1", _stepped(tv.models.resnet50(), 0.1)
    yield "resnet50_torchvision_v2", _second_recipe(tv.models.resnet50())


def _presets(size: int, shorter: int, **options: Any) -> Recipe:
    from torchvision import transforms

    evaluation = [transforms.Resize(shorter), transforms.CenterCrop(224)]
    crop = transforms.RandomResizedCrop(size)
    flip = transforms.RandomHorizontalFlip(0.5)
    return {
        "crop": parts.crop(crop),
        "flip": flip.p,
        **options,
        "evaluation": parts.evaluation(evaluation),
    }


def _stepped(model: Any, rate: float) -> Recipe:
    from torch import optim

    per_epoch = math.ceil(IMAGES / 256)
    optimizer = optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=1e-4)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=30, gamma=0.1)
    rates = _by_epoch(optimizer, schedule, 90)
    steps = {
        "first": 0,
        "before the first division": 30 * per_epoch - 1,
        "after the first division": 30 * per_epoch,
        "after the second division": 60 * per_epoch,
        "last": 90 * per_epoch - 1,
    }
    return {
        "epochs": 90,
        "steps_per_epoch": per_epoch,
        "batch_size": 256,
        "rule": type(optimizer).__name__,
        "rates": parts.rates(steps, lambda step: rates[step // per_epoch]),
        "decayed": parts.decayed(optimizer.param_groups),
        "weight_decay": 1e-4,
        **_presets(224, 256),
    }


def _second_recipe(model: Any) -> Recipe:
    """Returns the recipe of 8 GPUs with 128 images each, whose sampler repeats each image 4 times.

    References: https://github.com/pytorch/vision/issues/3995#issuecomment-1013906621 and `main` in
    references/classification/train.py.
    """
    from torch import optim
    from torchvision.ops._utils import split_normalization_params
    from torchvision.transforms import InterpolationMode, RandomErasing, TrivialAugmentWide

    epochs, batch, per_epoch = 600, 1024, IMAGES // 256 * 256 // 1024
    groups = [
        {"params": params, "weight_decay": decay}
        for params, decay in zip(split_normalization_params(model), (0.0, 2e-5), strict=True)
    ]
    optimizer = optim.SGD(groups, lr=0.5, momentum=0.9, weight_decay=2e-5)
    schedulers = optim.lr_scheduler
    cosine = schedulers.CosineAnnealingLR(optimizer, T_max=epochs - 5, eta_min=0.0)
    warm = schedulers.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    schedule = schedulers.SequentialLR(optimizer, [warm, cosine], milestones=[5])
    rates = _by_epoch(optimizer, schedule, epochs)
    steps = parts.steps(epochs * per_epoch, per_epoch, 5, 300)
    policy = TrivialAugmentWide(interpolation=InterpolationMode.BILINEAR)  # As in presets.py.
    erasing = RandomErasing(p=0.1)
    alpha = min(1.0, (1 - 0.99998) * batch * 32 / epochs)  # As train.py adjusts it.
    return {
        "epochs": epochs,
        "steps_per_epoch": per_epoch,
        "batch_size": batch,
        "rule": type(optimizer).__name__,
        "rates": parts.rates(steps, lambda step: rates[step // per_epoch]),
        "decayed": parts.decayed(optimizer.param_groups),
        "weight_decay": 2e-5,
        **_presets(176, 232),
        "policy": {
            "name": "trivial_augment_wide",
            "bins": policy.num_magnitude_bins,
            "interpolation": parts.interpolation(policy.interpolation),
        },
        "erasing": {
            "probability": erasing.p,
            "least_area": erasing.scale[0],
            "largest_area": erasing.scale[1],
            "least_ratio": erasing.ratio[0],
            "largest_ratio": erasing.ratio[1],
            "mode": "constant",
        },
        "mixing": {
            "mixup": 0.2,
            "cutmix": 1.0,
            "share_of_cutmix": 0.5,
            "probability": 1.0,
            "convention": "torchvision",
        },
        "repeats": 4,
        "label_smoothing": 0.1,
        "ema": {"every_steps": 32, "decay": dict.fromkeys(steps, 1 - alpha)},
    }


def _by_epoch(optimizer: Any, schedule: Any, epochs: int) -> list[float]:
    """Returns the rate of each epoch of a scheduler that is called after each epoch."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The optimizer makes no steps.
        for _ in range(epochs):
            found.append(optimizer.param_groups[0]["lr"])
            schedule.step()
    return found
