"""Recipe of Swin: lr_scheduler.py, optimizer.py, config.py and data/build.py, as in main.py."""

import importlib
import math
import os
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.golden.recipes import parts
from tests.golden.recipes.parts import IMAGES, Recipe


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yields the recipe of Swin-T for 8 GPUs with 128 images each."""
    os.environ.setdefault("LOCAL_RANK", "0")
    lr_scheduler: Any = importlib.import_module("lr_scheduler")
    from timm.scheduler.cosine_lr import CosineLRScheduler

    # The argument has another name in today's timm.
    lr_scheduler.CosineLRScheduler = lambda *args, t_mul, **options: CosineLRScheduler(
        *args, cycle_mul=t_mul, **options
    )
    config: Any = importlib.import_module("config")
    configs = Path(config.__file__).parent / "configs" / "swin"
    file = configs / "swin_tiny_patch4_window7_224.yaml"
    settings = config.get_config(types.SimpleNamespace(cfg=str(file), opts=None))
    yield "swin_tiny", _swin(settings, lr_scheduler.build_scheduler)


def _swin(settings: Any, build_scheduler: Callable[..., Any]) -> Recipe:
    build = importlib.import_module("data.build")
    model = importlib.import_module("models.build").build_model(settings)
    batch, per_epoch = 1024, math.ceil(IMAGES / 8) // 128
    training, optimizer_settings = settings.TRAIN, settings.TRAIN.OPTIMIZER
    settings.defrost()
    for key in ("BASE_LR", "WARMUP_LR", "MIN_LR"):
        training[key] = training[key] * batch / 512.0  # As in main.py.
    optimizer = importlib.import_module("optimizer").build_optimizer(settings, model)
    schedule = build_scheduler(settings, optimizer, per_epoch)
    steps = parts.steps(training.EPOCHS * per_epoch, per_epoch, training.WARMUP_EPOCHS, 160)
    transform = build.build_transform(True, settings)
    evaluation = build.build_transform(False, settings)
    augment = settings.AUG
    args = types.SimpleNamespace(
        mixup=augment.MIXUP,
        cutmix=augment.CUTMIX,
        mixup_switch_prob=augment.MIXUP_SWITCH_PROB,
        mixup_prob=augment.MIXUP_PROB,
    )
    return {
        "epochs": training.EPOCHS,
        "steps_per_epoch": per_epoch,
        "batch_size": batch,
        "rule": type(optimizer).__name__,
        "rates": parts.rates(steps, lambda step: schedule._get_lr(step)[0]),
        "decayed": parts.decayed(optimizer.param_groups),
        "weight_decay": training.WEIGHT_DECAY,
        **parts.timm_transforms(transform.transforms),
        "evaluation": parts.evaluation(evaluation.transforms),
        **parts.timm_mixing(args),
        "label_smoothing": settings.MODEL.LABEL_SMOOTHING,
        "drop_path": settings.MODEL.DROP_PATH_RATE,
        "clip_norm": training.CLIP_GRAD,
        "optimizer": {"betas": list(optimizer_settings.BETAS), "eps": optimizer_settings.EPS},
    }
