"""Writes `data/schedules-LIBRARY.json`: learning rates by step of other libraries' schedules.

    python -m tests.optim.make_schedules LIBRARY

LIBRARY is `torch` (needs torch and timm) or `tensorflow` (needs tensorflow and keras). A run has 40
steps in 10 epochs; its rate is 0.3, and its warm-up, if there is one, takes 8 steps.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent / "data"
SCRIPT = "tests/optim/make_schedules.py"
RATE, STEPS, PER_EPOCH, WARMUP = 0.3, 40, 4, 8
FURTHER = 10  # Steps after the end, where schedules differ.


def main() -> None:
    """Writes the file of a library."""
    (library,) = sys.argv[1:]
    source, cases = {"torch": _of_torch, "tensorflow": _of_tensorflow}[library]()
    content = {"source": source, "script": SCRIPT, "cases": cases}
    DATA.mkdir(exist_ok=True)
    text = json.dumps(content, separators=(",", ":"))
    (DATA / f"schedules-{library}.json").write_text(text + "\n")


def _of_torch() -> tuple[str, dict[str, list[float]]]:
    import timm
    import torch

    cases = {**_torch_cases(), **_timm_cases()}
    return f"torch {torch.__version__}, timm {timm.__version__}", cases


def _torch_cases() -> dict[str, list[float]]:
    import torch
    from torch.optim import lr_scheduler as torch_schedules

    s = torch_schedules

    def run(make: Callable[[Any], Any], steps: int = STEPS, rate: float = RATE) -> list[float]:
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
        scheduler = make(optimizer)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        return found

    def after(optimizer: Any, first: Any, steps: int, then: Any) -> Any:
        return s.SequentialLR(optimizer, [first, then], milestones=[steps])

    def warm(optimizer: Any, steps: int = WARMUP) -> Any:
        return s.LinearLR(optimizer, start_factor=0.01, total_iters=steps)

    return {
        "step": run(lambda o: s.MultiStepLR(o, [12, 26], gamma=0.2)),
        "step after warm-up": run(
            lambda o: after(o, warm(o), WARMUP, s.MultiStepLR(o, [4, 18], gamma=0.2))
        ),
        "exponential": run(lambda o: s.ExponentialLR(o, gamma=0.9)),
        "staircase": run(lambda o: s.StepLR(o, step_size=6, gamma=0.5)),
        "cosine": run(lambda o: s.CosineAnnealingLR(o, T_max=STEPS), STEPS + FURTHER),
        "cosine with floor": run(lambda o: s.CosineAnnealingLR(o, T_max=STEPS, eta_min=0.03)),
        "restarts": run(lambda o: s.CosineAnnealingWarmRestarts(o, T_0=8, eta_min=0.03)),
        "growing restarts": run(lambda o: s.CosineAnnealingWarmRestarts(o, T_0=6, T_mult=2)),
        "polynomial": run(lambda o: s.PolynomialLR(o, total_iters=STEPS, power=2.0)),
        "one_cycle": run(
            lambda o: s.OneCycleLR(
                o, max_lr=RATE, total_steps=STEPS, pct_start=0.3, cycle_momentum=False
            )
        ),
        "constant warm-up": run(lambda o: s.ConstantLR(o, factor=0.1, total_iters=WARMUP)),
        "exponential warm-up": run(
            lambda o: s.ExponentialLR(o, gamma=100 ** (1 / WARMUP)), WARMUP, 0.01 * RATE
        ),
        "by epoch": run(
            lambda o: after(o, warm(o, 2), 2, s.CosineAnnealingLR(o, T_max=8, eta_min=0.003)),
            STEPS // PER_EPOCH,
        ),
    }


def _timm_cases() -> dict[str, list[float]]:
    import torch
    from timm import scheduler as s

    def run(make: Any, options: Mapping[str, Any], steps: int = STEPS) -> list[float]:
        scheduler = make(torch.optim.SGD([torch.zeros(1)], lr=RATE), **options)
        return [scheduler._get_lr(step)[0] for step in range(steps)]

    warm = {"warmup_t": WARMUP, "warmup_lr_init": 0.003}
    floor = {"lr_min": 0.03}
    by_epoch = {"decay_t": 2.4, "decay_rate": 0.97, "warmup_t": 2, "warmup_lr_init": 0.003}
    prefix = {"t_initial": STEPS - WARMUP, "warmup_prefix": True, **floor, **warm}
    growing = {"t_initial": 6, "cycle_mul": 2.0, "cycle_limit": 9, **floor}
    return {
        "timm cosine": run(s.CosineLRScheduler, {"t_initial": STEPS, **floor, **warm}),
        "timm cosine with prefix": run(s.CosineLRScheduler, prefix),
        "timm growing restarts": run(s.CosineLRScheduler, growing),
        "timm polynomial": run(
            s.PolyLRScheduler, {"t_initial": STEPS, "power": 0.5, **floor, **warm}
        ),
        "timm step by epoch": run(
            s.StepLRScheduler, {**by_epoch, "warmup_prefix": False}, STEPS // PER_EPOCH
        ),
        "timm multi-step": run(s.MultiStepLRScheduler, {"decay_t": [12, 26], "decay_rate": 0.2}),
    }


def _of_tensorflow() -> tuple[str, dict[str, list[float]]]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import keras
    import tensorflow as tf

    keras.backend.set_floatx("float64")
    s = keras.optimizers.schedules
    f = np.float64  # Python numbers would become float32.
    rate = f(RATE)

    def run(schedule: Any) -> list[float]:
        return [float(schedule(tf.constant(step, tf.float64))) for step in range(STEPS)]

    cases = {
        "exponential": run(s.ExponentialDecay(rate, f(9.6), f(0.97))),
        "staircase": run(s.ExponentialDecay(rate, f(9.6), f(0.97), staircase=True)),
        "polynomial": run(s.PolynomialDecay(rate, f(STEPS), f(0.03), power=f(2.0))),
        "cosine after warm-up": run(
            s.CosineDecay(
                f(0.003), STEPS - WARMUP, alpha=f(0.1), warmup_target=rate, warmup_steps=WARMUP
            )
        ),
        "growing restarts": run(
            s.CosineDecayRestarts(rate, f(6), t_mul=f(2.0), m_mul=f(1.0), alpha=f(0.1))
        ),
        "piecewise": run(s.PiecewiseConstantDecay([12, 26], [rate, f(0.2) * rate, f(0.04) * rate])),
    }
    return f"tensorflow {tf.__version__}, keras {keras.__version__}", cases


if __name__ == "__main__":
    main()
