"""Compares fine-tuning, frozen features and training from scratch on one set of pictures.

  python -m experiments.transfer.compare --config=configs/tuxpaint.py --out=runs/transfer/stamps
    [--config.KEY=VALUE ...]

Each arm tries three settings of one hyperparameter, and the validation examples choose one: the
rate of the last phase of fine-tuning, the rate of training from scratch, and C of scikit-learn's
logistic regression on the features of the weights. The table has the test accuracy of the chosen
setting of each arm. A trial that was interrupted continues, and a finished one is not repeated.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LogisticRegression

from cnn_jax import config_files, data, features, plan, predictor, train
from cnn_jax.data import selection
from cnn_jax.evaluators import example_rows, intervals, thorough
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.request import Request

RATES: Mapping[str, tuple[float, ...]] = {
    "fine-tuned": (0.001, 0.003, 0.01),
    "scratch": (0.02, 0.06, 0.2),
}
CS = (0.1, 1.0, 10.0)
SEED = 0


class Trial(NamedTuple):
    """A setting of an arm, and its result on the validation examples.

    Attributes:
      setting: the hyperparameter in words.
      top1: the accuracy.
      loss: the mean cross-entropy in nats, which decides between equal accuracies.
    """

    setting: str
    top1: float
    loss: float

    @property
    def rank(self) -> tuple[float, float]:
        """A key whose largest value is best."""
        return self.top1, -self.loss


class Arm(NamedTuple):
    """The result of an arm.

    Attributes:
      trials: its trials.
      best: the number of the chosen one, from 0.
      right: for the name of each test example, True if its prediction is right.
    """

    trials: list[Trial]
    best: int
    right: dict[str, bool]


def trained(name: str, settings: plan.Plan, out: Path) -> Arm:
    """Returns the arm of a config with the rates of `RATES`.

    Args:
      name: 'fine-tuned' or 'scratch'.
      settings: its config.
      out: the folder of its runs.

    Raises:
      SystemExit: a signal stopped a run. The next start continues it.
    """
    trials = []
    for number, rate in enumerate(RATES[name]):
        outcome = train.run(with_rate(settings, rate), out / f"{name}-{number}")
        outcome.exit_if_stopped()
        values = outcome.validation
        trials.append(Trial(f"rate {rate:g}", values["top1"], values["loss"]))
    best = chosen(trials)
    result = out / f"{name}.json"
    if not result.exists():
        network = Networks(runs=(out / f"{name}-{best}",), checkpoint="last")
        thorough.run(network, Request(split="test", out=result))
    rows = example_rows.read(result)
    right = dict(zip(rows.names.tolist(), rows.right.tolist(), strict=True))
    return Arm(trials, best, right)


def with_rate(settings: plan.Plan, rate: float) -> plan.Plan:
    """Returns a plan with another learning rate, which its first phase does not read."""
    return plan.read({**plan.flatten(settings), "optim.learning_rate": rate})


def probed(settings: plan.Plan) -> Arm:
    """Returns the arm of logistic regression on the features of the weights.

    Args:
      settings: the config of fine-tuning, with its weights and its splits.
    """
    source = data.open_source(settings.data)
    splits = selection.Splits(source.class_names, selection.select(source, settings.data))
    network = predictor.load(settings.init.weights)
    train_set, validation, test = (
        features.of_source(network, splits, name) for name in ("train", "validation", "test")
    )
    trials, classifiers = [], []
    for c in CS:
        classifier = LogisticRegression(C=c, max_iter=5000)
        classifier.fit(train_set.features, train_set.labels)
        classifiers.append(classifier)
        likely = classifier.predict_log_proba(validation.features)
        right = likely.argmax(1) == validation.labels
        loss = -likely[np.arange(len(right)), validation.labels].mean()
        trials.append(Trial(f"C {c:g}", float(right.mean()), float(loss)))
    best = chosen(trials)
    right = classifiers[best].predict(test.features) == test.labels
    return Arm(trials, best, dict(zip(test.names, right.tolist(), strict=True)))


def chosen(trials: list[Trial]) -> int:
    """Returns the number of the best trial, the first of equal ones."""
    return max(range(len(trials)), key=lambda number: trials[number].rank)


def report(arms: Mapping[str, Arm]) -> Iterator[str]:
    """Yields a table of the arms and the differences of their test accuracies to 'scratch'.

    Intervals are 95 % percentile bootstrap intervals over the test examples; the p-values are those
    of McNemar's test.
    """
    names = sorted(arms["scratch"].right)
    right = {name: np.array([arm.right[each] for each in names]) for name, arm in arms.items()}
    yield "| arm | setting | validation top-1 | test top-1 | 95 % interval |"
    yield "|---|---|--:|--:|---|"
    for name, arm in arms.items():
        low, high = intervals.bootstrap(right[name], seed=SEED)
        best = arm.trials[arm.best]
        yield (
            f"| {name} | {best.setting} | {best.top1:.2%} | {right[name].mean():.2%} "
            f"| {low:.2%} to {high:.2%} |"
        )
    for name in [name for name in arms if name != "scratch"]:
        difference = right[name] * 1.0 - right["scratch"]
        low, high = intervals.bootstrap(difference, seed=SEED)
        test = intervals.mcnemar(right[name], right["scratch"])
        yield (
            f"{name} minus scratch: {difference.mean():.2%} ({low:.2%} to {high:.2%}), "
            f"p {test.p_value:.1g}, {len(names)} test examples"
        )


def main() -> None:
    """Runs the arms, prints the report, and writes it and the trials to OUT."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", required=True, help="configs/tuxpaint.py or another")
    parser.add_argument("--out", type=Path, required=True)
    args, words = parser.parse_known_args()
    texts = config_files.parse_overrides(words, ["--config", "--out"])

    def settings(variant: str) -> plan.Plan:
        return config_files.override(config_files.load(f"{args.config}{variant}"), texts)

    args.out.mkdir(parents=True, exist_ok=True)
    tuned = settings("")
    arms: dict[str, Arm] = {
        "fine-tuned": trained("fine-tuned", tuned, args.out),
        "features": probed(tuned),
        "scratch": trained("scratch", settings(":scratch"), args.out),
    }
    lines = [*report(arms)]
    print("\n".join(lines))
    trials: dict[str, Any] = {
        name: [trial._asdict() for trial in arm.trials] for name, arm in arms.items()
    }
    (args.out / "trials.json").write_text(json.dumps(trials, indent=1), encoding="utf-8")
    (args.out / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
