"""Parts of several sources: named steps, rates, torch's parameter groups, timm's transforms."""

import math
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

IMAGES = 1_281_167  # training images of ImageNet
Recipe = dict[str, Any]


def stub(name: str, **attributes: Any) -> None:
    """Makes a module that the original code imports but does not need here."""
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    for key, value in attributes.items():
        setattr(module, key, value)
    sys.modules[name] = module


def steps(total: int, per_epoch: int, warmup_epochs: float, cut: float) -> dict[str, int]:
    """Returns the five named steps of a recipe.

    Args:
      total: number of steps of the run.
      per_epoch: number of steps of an epoch.
      warmup_epochs: length of the warm-up; 0 for none.
      cut: an epoch within the decay.
    """
    return {
        "first": 0,
        "within the warm-up": round(warmup_epochs / 2 * per_epoch) + 1,
        "after the warm-up": round(warmup_epochs * per_epoch),
        "within the decay": round(cut * per_epoch) + 7,
        "last": total - 1,
    }


def rates(steps: Mapping[str, int], rate: Callable[[int], float]) -> Recipe:
    return {name: {"step": step, "rate": float(rate(step))} for name, step in steps.items()}


def decayed(groups: Iterable[Mapping[str, Any]]) -> dict[int, int]:
    """Returns the number of arrays of each size with weight decay in torch's parameter groups."""
    groups = [group for group in groups if group["weight_decay"] > 0]
    return sizes(array.numel() for group in groups for array in group["params"])


def sizes(given: Iterable[int]) -> dict[int, int]:
    """Returns the number of arrays of each size, by size."""
    return dict(sorted(Counter(given).items()))


def interpolation(given: Any) -> str:
    """Returns the name of an interpolation of torchvision, of Pillow, or of a choice of several."""
    if isinstance(given, (tuple, list)):
        return "random"
    value = getattr(given, "value", given)
    return value if isinstance(value, str) else given.name.lower()


def crop(transform: Any) -> Recipe:
    return {
        "size": transform.size[0],
        "scale": list(transform.scale),
        "ratio": list(transform.ratio),
        "interpolation": interpolation(transform.interpolation),
    }


def evaluation(transforms: Iterable[Any]) -> Recipe:
    found: dict[str, Any] = {type(each).__name__: each for each in transforms}
    shorter = found["Resize"].size
    crop = found["CenterCrop"].size
    return {
        "shorter_side": shorter if isinstance(shorter, int) else shorter[0],
        "size": crop if isinstance(crop, int) else crop[0],
        "interpolation": interpolation(found["Resize"].interpolation),
    }


def timm_transforms(transforms: Iterable[Any]) -> Recipe:
    """Returns the augmentation of `create_transform`, without the colours that it leaves out."""
    found = {type(transform).__name__: transform for transform in transforms}
    result: Recipe = {
        "crop": crop(found["RandomResizedCropAndInterpolation"]),
        "flip": found["RandomHorizontalFlip"].p,
        "colour_jitter": None if "ColorJitter" not in found else "ColorJitter",
    }
    policy = found.get("RandAugment")
    if policy is not None:
        first = policy.ops[0]
        result["policy"] = {
            "name": "timm",
            "layers": policy.num_layers,
            "magnitude": first.magnitude,
            "std": first.magnitude_std,
            "probability": first.prob,
            "increasing": any("Increasing" in operation.name for operation in policy.ops),
            "operations": len(policy.ops),
            "interpolation": interpolation(first.kwargs["resample"]),
        }
    erasing = found.get("RandomErasing")
    if erasing is not None:
        result["erasing"] = {
            "probability": erasing.probability,
            "least_area": erasing.min_area,
            "largest_area": erasing.max_area,
            "least_ratio": math.exp(erasing.log_aspect_ratio[0]),
            "largest_ratio": math.exp(erasing.log_aspect_ratio[1]),
            "mode": erasing.mode,
        }
    return result


def timm_mixing(args: Any) -> Recipe:
    if not args.mixup and not args.cutmix:
        return {}
    return {
        "mixing": {
            "mixup": args.mixup,
            "cutmix": args.cutmix,
            "share_of_cutmix": args.mixup_switch_prob,
            "probability": args.mixup_prob,
            "convention": "timm",
        }
    }
