"""Tunes LeNet on Fashion-MNIST twice with equal budgets: its plain recipe, and a richer one.

  python -m experiments.recipes.lenet [--out=runs/recipes/lenet] [--trials=6]

Each arm draws the same number of settings at random, without repetition, from its own grid. The
validation accuracy after the last epoch ranks them, and the test set is not read. A trial that was
interrupted continues, and a finished one is not repeated.
"""

import argparse
import itertools
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_jax import config_files, plan, train

CONFIG = "configs/lenet_fashion_mnist.py"
PLAIN: Mapping[str, tuple[Any, ...]] = {
    "optim.learning_rate": (0.02, 0.05, 0.1, 0.2),
    "optim.weight_decay": (1e-4, 5e-4, 1e-3),
}
RICH: Mapping[str, tuple[Any, ...]] = {
    **PLAIN,
    "data.flip": (False, True),
    "data.crop_padding": (0, 2),
    "data.augment": ((), (("random_erasing", {"probability": 0.25}),)),
    "loss.label_smoothing": (0.0, 0.1),
    "train.epochs": (20.0, 40.0),
}
FIXED: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "rich": {
        "optim.nesterov": True,
        "ema.decay": 0.999,
        "ema.warmup": True,
        "eval.weights": "average",
    },
}


def draw(grid: Mapping[str, tuple[Any, ...]], trials: int) -> list[dict[str, Any]]:
    """Returns `trials` settings of a grid, drawn with seed 0."""
    settings = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    return random.Random(0).sample(settings, min(trials, len(settings)))


def accuracy(changes: Mapping[str, Any], directory: Path) -> float:
    """Trains a setting and returns its validation accuracy after the last epoch.

    Raises:
      SystemExit: a signal stopped the run. The next start continues it.
    """
    settings = plan.flatten(plan.read(config_files.load(CONFIG)))
    settings |= {"data.test_split": "", "optim.schedule.warmup_first_step": 1, **changes}
    outcome = train.run(settings, directory, progress=False)
    outcome.exit_if_stopped()
    name = "average/top1" if settings["eval.weights"] == "average" else "top1"
    return outcome.validation[name]


def main() -> None:
    """Runs the trials of both arms, prints them and writes them to OUT/trials.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/recipes/lenet"))
    parser.add_argument("--trials", type=int, default=6)
    args = parser.parse_args()
    rows = []
    for arm, grid in (("plain", PLAIN), ("rich", RICH)):
        for number, setting in enumerate(draw(grid, args.trials)):
            value = accuracy({**FIXED[arm], **setting}, args.out / f"{arm}-{number}")
            rows.append({"arm": arm, "trial": number, "top1": value, **setting})
            print(json.dumps(rows[-1]), flush=True)
            (args.out / "trials.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
