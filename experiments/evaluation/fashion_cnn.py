"""Compares ways to evaluate more than one network or view with a single network, on Fashion-MNIST.

  python -m experiments.evaluation.fashion_cnn [--out=runs/evaluation] [--epochs=3]

Five networks of `configs/fashion_cnn.py` are trained with the seeds 0 to 4 for fewer epochs, and
four copies of the first one for one epoch more. `OUT/results.json` gets the figures, and the table
is printed. Runs that were interrupted continue, and finished ones are not repeated.
"""

import argparse
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import config_files, data, evaluators, plan, predictor, train
from cnn_jax.contracts import Result, Source
from cnn_jax.evaluators import calibration, ensembles, intervals, scores, soups, views
from cnn_jax.predictor import Predictor

CONFIG = "configs/fashion_cnn.py"
SEEDS = range(5)
COPIES = range(11, 15)
COPY_RATE = 0.003  # a tenth of the config's
TEN_CROPS = views.ten_crops(padding=2)  # the shifts of the training
SINGLE = "one network, seed 0"


def settings(**changes: Any) -> plan.Plan:
    """Returns the config without a test split, so that training does not read it."""
    values = plan.flatten(plan.read(config_files.load(CONFIG)))
    return plan.read({**values, "data.test_split": "", **changes})


def trained(directory: Path, **changes: Any) -> Predictor:
    """Trains a network and returns it with the average of its last weights.

    Raises:
      SystemExit: a signal stopped the run. The next start continues it.
    """
    outcome = train.run(settings(**changes), directory, progress=False)
    outcome.exit_if_stopped()
    return predictor.load(directory, "last")


@functools.cache
def source() -> Source:
    """Returns the data set."""
    return data.open_source(settings().data)


def outputs(arm: Any, split: str) -> Result:
    """Returns the result of an arm on a split, with the logits and the label of each example.

    Args:
      arm: a predictor, a list of the members of an ensemble, or a predictor and its views.
      split: the split.
    """
    if isinstance(arm, list):
        return ensembles.evaluate(arm, source(), split, rows=True)
    one, seen = arm if isinstance(arm, tuple) else (arm, None)
    return evaluators.evaluate(one, source(), split, views=seen, rows=True)


def measured(arm: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Returns the figures of an arm on the test split, and which examples are right.

    The temperature is fitted on the validation split.
    """
    held_out, test = (
        outputs(arm, split).details for split in (settings().data.validation_split, "test")
    )
    logits, labels = test["logits"], test["labels"]
    temperature = calibration.fit_temperature(held_out["logits"], held_out["labels"])
    found = scores.per_example(logits, labels)
    return {
        "validation_top1": float(scores.per_example(*_pair(held_out)).right().mean()),
        "top1": float(found.right().mean()),
        "interval": list(intervals.bootstrap(found.right(), seed=0)),
        "nll": float(found.nll.mean()),
        "ece": calibration.expected_error(logits, labels),
        "temperature": temperature,
        "calibrated_ece": calibration.expected_error(logits, labels, temperature=temperature),
    }, found.right()


def _pair(details: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return details["logits"], details["labels"]


def arms(out: Path, epochs: float) -> dict[str, Any]:
    """Trains the networks and returns the arms by their title."""
    runs = [out / f"seed-{seed}" for seed in SEEDS]
    members = [
        trained(run, **{"seed": seed, "train.epochs": epochs})
        for run, seed in zip(runs, SEEDS, strict=True)
    ]
    changes = {
        "init.weights": str(runs[0]),
        "train.epochs": 1.0,
        "optim.learning_rate": COPY_RATE,
        "optim.schedule.warmup_epochs": 0.1,
    }
    copies = [trained(out / f"copy-{seed}", **{**changes, "seed": seed}) for seed in COPIES]
    return {
        SINGLE: members[0],
        "without the average of its parameters": predictor.load(runs[0], "last", average=False),
        "ten crops, shifted by 2 pixels": (members[0], TEN_CROPS),
        "its mirror image too": (members[0], views.mirrored()),
        "five networks, mean of the probabilities": members,
        "one of four copies, an epoch more": copies[0],
        "soup of the four copies": soups.uniform(copies),
    }


def compare(out: Path, epochs: float) -> list[dict[str, Any]]:
    """Returns the figures of all arms, each compared with the single network."""
    rows = []
    reference: np.ndarray | None = None
    for title, arm in arms(out, epochs).items():
        figures, right = measured(arm)
        if reference is None:
            reference = right
        difference = intervals.bootstrap(right * 1.0 - reference, seed=0)
        p_value = intervals.mcnemar(right, reference).p_value
        rows.append({"arm": title, **figures, "difference": list(difference), "p_value": p_value})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Returns the figures as a table in Markdown."""
    lines = [
        "| evaluation | test top-1 | difference | p | NLL | ECE | temperature | ECE with it |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        low, high = row["interval"]
        less, more = row["difference"]
        against = row["arm"] != SINGLE
        cells = (
            row["arm"],
            f"{row['top1']:.2%} ({low:.2%} to {high:.2%})",
            f"{100 * less:+.2f} to {100 * more:+.2f}" if against else "",
            f"{row['p_value']:.2g}" if against else "",
            f"{row['nll']:.4f}",
            f"{row['ece']:.4f}",
            f"{row['temperature']:.3f}",
            f"{row['calibrated_ece']:.4f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains the networks, prints the table, and writes the figures to OUT/results.json."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"))
    parser.add_argument("--epochs", type=float, default=3.0)
    args = parser.parse_args()
    rows = compare(args.out, args.epochs)
    (args.out / "results.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
