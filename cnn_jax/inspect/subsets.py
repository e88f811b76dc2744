"""Learning curves over subset sizes: the error on trained and on new examples (bias, variance).

Where both errors are high and close to each other, more examples do not help (bias). Where the
training error is low and the gap is wide, they do (variance).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data, errors, plan, train
from cnn_jax.contracts import Source
from cnn_jax.data import selection
from cnn_jax.plan import Plan

SHARES = (5, 10, 20, 50, 100)
"""Percentages of the training split."""

Tell = Callable[[str], None]
"""Called with a line before each training."""


class Trained(NamedTuple):
    """A network that was trained on a part of the training split.

    Attributes:
      percent: the share of the split.
      examples: the number of examples.
      steps: the number of steps that it was trained for.
      training: the top-1 error on the training examples, without augmentation.
      held_out: the top-1 error on the validation split, or on the test split without one.
    """

    percent: int
    examples: int
    steps: int
    training: float
    held_out: float


def learning_curve(
    config: ConfigDict | Mapping[str, Any] | Plan,
    shares: Sequence[int] = SHARES,
    *,
    source: Source | None = None,
    tell: Tell | None = None,
) -> list[Trained]:
    """Trains one network on each of several parts of the training split.

    A part has the same share of each class, and holds the smaller parts. All trainings take the
    same number of steps, that of the whole split, so that the smaller ones are not trained for
    less. They keep nothing on disk.

    Args:
      config: a config; `cnn_jax/sections` lists its keys.
      shares: percentages from 1 to 100.
      source: the data set, in place of `data.source`.
      tell: called before each training.

    Raises:
      UserError: a share is not allowed or smaller than a batch, the config has phases, or there is
        neither a validation nor a test split.
      SystemExit: a signal stopped a training.
    """
    wrong = [share for share in shares if not 1 <= share <= 100]
    if wrong or not shares:
        raise errors.UserError(f"shares must be percentages from 1 to 100, got {list(shares)}")
    settings = plan.read(config)
    if settings.phases:
        raise errors.UserError("the learning curve trains in one phase; leave out the key phases")
    source = source or data.open_source(settings.data)
    selected = selection.select(source, selection.resolve(source, settings.data))
    if not selected.keys() & {"validation", "test"}:
        raise errors.UserError(
            "the learning curve needs a validation or a test split; set data.validation_split"
        )
    settings = _of_parts(settings, selected)
    steps = settings.train.steps
    parts = {share: _part(selected["train"], share, settings.seed) for share in sorted(set(shares))}
    _check_sizes(parts, settings.train.batch_size)
    result = []
    for share, part in parts.items():
        if tell is not None:
            tell(f"{share} %: {len(part):,} examples, {steps:,} steps")
        splits = {**selected, "train": part, "trained": part}
        given = selection.Splits(source.class_names, splits)
        outcome = train.run(settings, source=given, progress=False)
        outcome.exit_if_stopped()
        result.append(_trained(share, len(part), steps, outcome))
    return result


def _of_parts(settings: Plan, selected: Mapping[str, selection.Selected]) -> Plan:
    """Returns the plan of each training: the steps of the whole split, and names for its splits.

    'trained' is what the network was trained on. A run reports its last parameters on its test
    split.

    Args:
      settings: the plan of the whole split.
      selected: the examples of its splits.
    """
    epochs, size = settings.train.epochs, len(selected["train"])
    steps = settings.train.steps or max(round(epochs * size / settings.train.batch_size), 1)
    keys = dataclasses.replace(
        settings.data,
        split="",
        train_split="train",
        validation_split="validation" if "validation" in selected else "test",
        test_split="trained",
    )
    lengths = dataclasses.replace(settings.train, steps=steps)
    return dataclasses.replace(settings, data=keys, train=lengths)


def _part(whole: selection.Selected, share: int, seed: int) -> selection.Selected:
    """Returns the same share of each class, at least one example."""
    labels = np.asarray(whole.labels())
    if labels.ndim != 1:
        labels = np.zeros(len(labels), int)  # Classes of multi-label examples overlap.
    order = np.random.default_rng(seed).permutation(len(labels))
    kept: list[np.ndarray] = []
    for label in np.unique(labels):
        members = order[labels[order] == label]
        kept.append(members[: max(round(len(members) * share / 100), 1)])
    return selection.Selected(whole, np.sort(np.concatenate(kept)))


def _check_sizes(parts: Mapping[int, selection.Selected], batch_size: int) -> None:
    """Checks that each part fills a batch.

    Raises:
      UserError: a part is smaller than a batch.
    """
    for share, part in parts.items():
        if len(part) < batch_size:
            raise errors.UserError(
                f"{share} % of the training split are {len(part):,} examples, fewer than "
                f"train.batch_size {batch_size}; leave out this share or lower train.batch_size"
            )


def _trained(share: int, examples: int, steps: int, outcome: train.Outcome) -> Trained:
    """Returns the errors of a run.

    Raises:
      UserError: it logged no accuracy.
    """
    if "top1" not in outcome.test:
        raise errors.UserError(
            "the learning curve needs the accuracy 'top1', and the run reports only "
            f"{', '.join(outcome.test)}"
        )
    training, held_out = (1 - values["top1"] for values in (outcome.test, outcome.validation))
    return Trained(share, examples, steps, training, held_out)
