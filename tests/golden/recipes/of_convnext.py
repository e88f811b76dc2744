"""Recipe of ConvNeXt: utils.py, optim_factory.py and datasets.py, with TRAINING.md's arguments."""

import importlib
import math
from collections.abc import Iterator
from typing import Any

from tests.golden.recipes import parts
from tests.golden.recipes.parts import IMAGES, Recipe


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yields the recipe of ConvNeXt-T for batches of 4096 images."""
    parts.stub("torch._six", inf=math.inf)
    parts.stub("tensorboardX", SummaryWriter=None)
    importlib.import_module("timm.optim")  # Before the stubs: it imports nadam.py.
    for name in ("Nadam", "NovoGrad", "RAdam"):  # Optimizers of earlier versions of timm.
        parts.stub(f"timm.optim.{name.lower()}", **{name: None})
    main = importlib.import_module("main")
    arguments = (
        "--model convnext_tiny --drop_path 0.1 --batch_size 4096 --lr 4e-3 "
        "--model_ema true --model_ema_eval true"
    )
    args = main.get_args_parser().parse_args(arguments.split())
    yield "convnext_tiny", _convnext(args, main)


def _convnext(args: Any, main: Any) -> Recipe:
    datasets = importlib.import_module("datasets")
    utils = importlib.import_module("utils")
    model = importlib.import_module("models.convnext").convnext_tiny(drop_path_rate=args.drop_path)
    per_epoch = IMAGES // args.batch_size
    rates = utils.cosine_scheduler(
        args.lr, args.min_lr, args.epochs, per_epoch, warmup_epochs=args.warmup_epochs
    )
    optimizer = main.create_optimizer(args, model)
    steps = parts.steps(args.epochs * per_epoch, per_epoch, args.warmup_epochs, 160)
    return {
        "epochs": args.epochs,
        "steps_per_epoch": per_epoch,
        "batch_size": args.batch_size,
        "rule": type(optimizer).__name__,
        "rates": parts.rates(steps, lambda step: rates[step]),
        "decayed": parts.decayed(optimizer.param_groups),
        "weight_decay": args.weight_decay,
        **parts.timm_transforms(datasets.build_transform(True, args).transforms),
        "evaluation": parts.evaluation(datasets.build_transform(False, args).transforms),
        **parts.timm_mixing(args),
        "label_smoothing": args.smoothing,
        "drop_path": args.drop_path,
        "clip_norm": args.clip_grad or 0.0,
        "ema": {"every_steps": 1, "decay": dict.fromkeys(steps, args.model_ema_decay)},
    }
