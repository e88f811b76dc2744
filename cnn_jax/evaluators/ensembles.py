"""Ensembles: the mean of the outputs of several networks on the same examples.

    members = [predictor.load(source) for source in ("runs/0", "runs/1", "weights.safetensors")]
    ensembles.evaluate(members, source, "test").values["top1"]

The members may be different networks with inputs of different sizes. Each one prepares the images
in its own way, and only its logits are used. The means:

- 'probabilities': the mean of the softmax outputs, the linear opinion pool (Lakshminarayanan et
  al. 2017, arXiv:1612.01474, section 2.4).
- 'logits': the softmax of the mean of the logits, which is the normalised geometric mean of the
  softmax outputs.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cnn_jax import errors
from cnn_jax.contracts import Result, Source
from cnn_jax.evaluators import classification, of_predictor, scores, viewed
from cnn_jax.evaluators.view_inputs import Views
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.predictor import Predictor

MEANS = viewed.MEANS
"""The outputs that `combine` and `evaluate` can average."""


def combine(logits: Sequence[np.ndarray], mean: str = MEANS[0]) -> np.ndarray:
    """Returns the log-probabilities of an ensemble, which are logits too.

    The means are computed in float64 from log-probabilities, so that no probability is rounded to
    zero. The memory beside the arguments is that of the result and of blocks of 8 MB.

    Args:
      logits: for each member, `[N, K]` float, of the same examples and classes.
      mean: 'probabilities' or 'logits'; see the module's docstring.

    Returns:
      `[N, K]`, float32 or the widest dtype of the members.

    Raises:
      UserError: `mean` is unknown, there are no members, their shapes differ, or a logit is not
        finite.

    >>> members = [np.log([[0.5, 0.5]]), np.log([[0.9, 0.1]])]
    >>> np.exp(combine(members)).round(3).tolist()
    [[0.7, 0.3]]
    >>> np.exp(combine(members, "logits")).round(3).tolist()
    [[0.75, 0.25]]
    """
    _check_mean(mean)
    members = [scores.check_logits(one) for one in logits]
    shapes = [list(one.shape) for one in members]
    if not shapes or shapes != shapes[:1] * len(shapes):
        raise errors.UserError(
            "the members of an ensemble need logits of one shape [examples, classes], got shapes "
            f"{errors.listed(shapes)}; evaluate them on the same examples"
        )
    result = np.empty(shapes[0], np.result_type(np.float32, *members))
    for rows in scores.blocks(*members[0].shape):
        result[rows] = _mean([one[rows].astype(np.float64) for one in members], mean)
    return result


def evaluate(
    predictors: Sequence[Predictor],
    source: Source,
    split: str,
    *,
    mean: str = MEANS[0],
    views: Views | None = None,
    batch_size: int = 0,
    rows: bool = False,
    confusion: bool = False,
    tell: Tell | None = None,
) -> Result:
    """Evaluates an ensemble on a split of any source with its classes.

    Members are evaluated one after another by `of_predictor.evaluate`. The logits of all members
    are held on the host: 0.2 GB for each one of 50,000 examples and 1,000 classes.

    Args:
      predictors: the members, at least two, of runs or of published weights.
      source: the data set; its class names must be those of each member.
      split: a stored split of the source, or a slice of one, such as 'test[:50%]'.
      mean: 'probabilities' or 'logits'; see the module's docstring.
      views: the views of each image, which each member averages first; by default its one.
      batch_size: examples per batch over all devices; 0 for that of each predictor.
      rows: True to keep the outputs of each example.
      confusion: True for the confusion matrix of more than 1,000 classes too.
      tell: called after each batch with two counts over all members: batches finished, batches in
        total. Members with other batch sizes change the total, but not the order of the quotients.

    Returns:
      The result of `classification.make` for the ensemble. Its details also have `members`, the
      values of each member in a tuple. With `rows`, they have `logits` `[N, K]` float32, which are
      log-probabilities; `member_logits`, those of each member in a tuple; `labels` `[N]` int32; and
      `names`, N texts.

    Raises:
      UserError: there are fewer than two members, their classes differ, `mean` is unknown, or the
        members got different examples. See also `of_predictor.evaluate`.
    """
    _check_mean(mean)
    check_members(predictors, "an ensemble")
    results = [
        of_predictor.evaluate(
            member,
            source,
            split,
            views=views,
            batch_size=batch_size,
            rows=True,
            tell=tell and _of_member(tell, number, len(predictors)),
        )
        for number, member in enumerate(predictors)
    ]
    _check_examples(results)
    details = results[0].details
    each = tuple(result.details["logits"] for result in results)
    logits = combine(each, mean)
    found = _measure(logits, details["labels"], confusion)
    further: dict[str, Any] = {"members": tuple(result.values for result in results)}
    if rows:
        further |= {"logits": logits, "member_logits": each}
        further |= {name: details[name] for name in ("labels", "names")}
    return dataclasses.replace(found, details={**found.details, **further})


def check_members(predictors: Sequence[Predictor], whole: str) -> None:
    """Checks that there are several predictors, with the same classes in the same order.

    Args:
      predictors: the members.
      whole: what they are members of, for messages, such as 'an ensemble'.

    Raises:
      UserError: there are fewer than two, one is no predictor, or their classes differ.
    """
    for number, one in enumerate(predictors):
        if not isinstance(one, Predictor):
            raise errors.UserError(
                f"{title(number)} of {whole} must be a Predictor, got {type(one).__name__}; open "
                "work directories and weights with predictor.load"
            )
    if len(predictors) < 2:
        raise errors.UserError(
            f"{whole} needs at least two members, got {len(predictors)}; give more of them, or "
            "evaluate one with evaluators.evaluate"
        )
    for number, one in enumerate(predictors):
        _check_classes(number, one.class_names, predictors[0].class_names)


def title(number: int) -> str:
    """Returns the name of a member in messages."""
    return f"member {number} (counted from 0)"


def _check_mean(mean: str) -> None:
    if mean not in MEANS:
        raise errors.unknown("mean", mean, MEANS)


def _check_classes(number: int, found: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Checks that a member has the classes of member 0."""
    if found == wanted:
        return
    parts = [
        f"only member {index} has: {errors.listed(list(map(repr, names)))}"
        for index, names in (
            (0, [name for name in wanted if name not in set(found)]),
            (number, [name for name in found if name not in set(wanted)]),
        )
        if names
    ]
    raise errors.UserError(
        f"{title(number)} has other classes than member 0 ({len(found)} and {len(wanted)}): "
        f"{'; '.join(parts) or 'they are in another order'}. Members must be trained on the same "
        "classes, in the same order"
    )


def _check_examples(results: Sequence[Result]) -> None:
    """Checks that all members were evaluated on the same examples, in the same order."""
    columns = [
        list(zip(result.details["names"], result.details["labels"].tolist(), strict=True))
        for result in results
    ]
    for number, column in enumerate(columns):
        if column == columns[0]:
            continue
        pairs = enumerate(zip(column, columns[0], strict=False))
        row = next((row for row, (own, first) in pairs if own != first), "the last")
        raise errors.UserError(
            f"{title(number)} got other examples than member 0, from example {row} (counted from "
            "0) on; the source must return the same names and labels in each pass"
        )


def _of_member(tell: Tell, number: int, count: int) -> Tell:
    """Returns a function that reports the progress of one of `count` members as a part of all."""
    return lambda done, total: tell(number * total + done, count * total)


def _mean(logits: Sequence[np.ndarray], mean: str) -> np.ndarray:
    """Returns log-probabilities `[n, K]` of the members' logits, `[n, K]` float64 each."""
    if mean == "logits":
        return _log_softmax(np.mean(logits, axis=0))
    total: np.ndarray = functools.reduce(np.logaddexp, map(_log_softmax, logits))
    return total - math.log(len(logits))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _measure(logits: np.ndarray, labels: np.ndarray, confusion: bool) -> Result:
    """Returns the result of the evaluator of classifiers for logits `[N, K]`."""
    evaluator = classification.make(logits.shape[-1], confusion=confusion)
    measure = jax.jit(evaluator.measure)
    parts = [
        measure(
            {"logits": logits[rows]},
            {"label": labels[rows], "weight": np.ones(len(labels[rows]), np.float32)},
        )
        for rows in scores.blocks(*logits.shape)
    ]
    return evaluator.finish(parts, None)
