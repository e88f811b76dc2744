"""Recipes of timm: its train.py, with published arguments."""

import importlib
from collections.abc import Iterator
from typing import Any

from tests.golden.recipes import parts
from tests.golden.recipes.parts import IMAGES, Recipe

# Wightman et al. 2021, Table 2. Start of the warm-up and floor are the defaults of train.py of that
# time (commit 02daf2ab of October 2021). Its 5 epochs and the threshold are those of published
# repetitions, such as the README of Alibaba-MIIL/ML_Decoder; the default is 3 epochs.
STRIKES_BACK = (
    "--model resnet50 --opt lamb --sched cosine --batch-size 2048 --cutmix 1.0 "
    "--bce-loss --bce-target-thresh 0.2 "
    "--warmup-epochs 5 --warmup-lr 1e-4 --min-lr 1e-6 --crop-pct 0.95"
)
TIMM = {
    "resnet50_a1": f"{STRIKES_BACK} --lr 5e-3 --epochs 600 --weight-decay 0.01 --mixup 0.2 "
    "--aa rand-m7-mstd0.5-inc1 --smoothing 0.1 --drop-path 0.05 --aug-repeats 3",
    "resnet50_a2": f"{STRIKES_BACK} --lr 5e-3 --epochs 300 --weight-decay 0.02 --mixup 0.1 "
    "--aa rand-m7-mstd0.5-inc1 --smoothing 0 --drop-path 0.05 --aug-repeats 3",
    "resnet50_a3": f"{STRIKES_BACK} --lr 8e-3 --epochs 100 --weight-decay 0.02 --mixup 0.1 "
    "--aa rand-m6-mstd0.5-inc1 --smoothing 0 --img-size 160",
    # hfdocs/source/training_script.mdx, with the warm-up of May 2020 (commit ba793f5c).
    "mobilenetv3_large": "--model mobilenetv3_large_100 -b 1024 --sched step --epochs 600 "
    "--decay-epochs 2.4 --decay-rate .973 --opt rmsproptf --opt-eps .001 --warmup-lr 1e-6 "
    "--warmup-epochs 3 --weight-decay 1e-5 --drop 0.2 --drop-path 0.2 --model-ema "
    "--model-ema-decay 0.9999 --aa rand-m9-mstd0.5 --remode pixel --reprob 0.2 --lr .064",
}


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Yields the recipes of timm."""
    from timm.models import create_model

    parser = importlib.import_module("train").parser
    for name, arguments in TIMM.items():
        args = parser.parse_args(arguments.split())
        model = create_model(args.model)
        yield name, _timm(args, model)


def _timm(args: Any, model: Any) -> Recipe:
    from timm.data import create_transform, resolve_data_config
    from timm.optim import create_optimizer_v2, optimizer_kwargs
    from timm.scheduler import create_scheduler_v2, scheduler_kwargs

    per_epoch = IMAGES // args.batch_size
    optimizer = create_optimizer_v2(model, **optimizer_kwargs(cfg=args))
    schedule, epochs = create_scheduler_v2(
        optimizer, **scheduler_kwargs(args), updates_per_epoch=per_epoch
    )
    data = resolve_data_config(vars(args), model=model)
    rates = _by_timm_epoch(optimizer, schedule, epochs)
    steps = parts.steps(epochs * per_epoch, per_epoch, args.warmup_epochs, epochs / 2)
    training = create_transform(
        data["input_size"],
        is_training=True,
        interpolation=args.train_interpolation,
        auto_augment=args.aa,
        color_jitter=args.color_jitter,
        re_prob=args.reprob,
        re_mode=args.remode,
        re_count=args.recount,
    )
    # The crop that the paper tests with, for any size in training.
    evaluation = create_transform(
        (3, 224, 224), crop_pct=data["crop_pct"], interpolation=data["interpolation"]
    )
    ema = {"every_steps": 1, "decay": dict.fromkeys(steps, args.model_ema_decay)}
    return {
        "epochs": epochs,
        "steps_per_epoch": per_epoch,
        "batch_size": args.batch_size,
        "rule": type(optimizer).__name__,
        "rates": parts.rates(steps, lambda step: rates[step // per_epoch]),
        "decayed": parts.decayed(optimizer.param_groups),
        "weight_decay": args.weight_decay,
        **parts.timm_transforms(training.transforms),
        "evaluation": parts.evaluation(evaluation.transforms),
        **parts.timm_mixing(args),
        "label_smoothing": args.smoothing,
        **({"target_threshold": args.bce_target_thresh} if args.bce_loss else {}),
        "dropout": args.drop,
        "drop_path": args.drop_path or 0.0,
        "repeats": int(args.aug_repeats) or 1,
        **({"ema": ema} if args.model_ema else {}),
        **({"clip_norm": optimizer.defaults["max_grad_norm"]} if args.opt == "lamb" else {}),
        "optimizer": {
            key: value
            for key, value in optimizer.defaults.items()
            if key in ("alpha", "betas", "eps", "momentum")
        },
    }


def _by_timm_epoch(optimizer: Any, schedule: Any, epochs: int) -> list[float]:
    """Returns the rate of each epoch; train.py calls the scheduler with the next epoch."""
    found = [optimizer.param_groups[0]["lr"]]
    for epoch in range(1, epochs):
        schedule.step(epoch)
        found.append(optimizer.param_groups[0]["lr"])
    return found
