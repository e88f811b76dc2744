"""The result of a run."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from cnn_jax.contracts import Tree
from cnn_jax.predictor import Predictor
from cnn_jax.runs import logs


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a run; of a run in phases, that of the last phase that ran.

    Attributes:
      step: the number of steps taken.
      signal: the number of the signal that stopped the run early; 0 if it is complete, or if
        `watch` stopped it.
      params_sha256: the digest of the final parameters, which repeats only with the same versions
        and machine; empty if the run was stopped.
      early: True if early stopping has ended the run, which is complete.
      best_step: the step of the best validation and of the checkpoint 'best'; 0 without a
        validation.
      test: metrics of the final parameters on the test split; empty without such a split.
      validation: metrics of the last validation; empty without a validation.
      history: the lines of metrics.jsonl, for `pandas.DataFrame(outcome.history)`; those of all
        phases, with their number as `phase`.
      params: the parameters after the last step.
      batch_stats: the running statistics after the last step.
      model: the network, a Linen module; None if a given objective has no attribute `model`.
    """

    step: int
    signal: int = 0
    params_sha256: str = ""
    early: bool = False
    best_step: int = 0
    test: dict[str, float] = dataclasses.field(default_factory=dict)
    validation: dict[str, float] = dataclasses.field(default_factory=dict)
    history: list[logs.Row] = dataclasses.field(default_factory=list, repr=False, compare=False)
    params: Tree = dataclasses.field(default=None, repr=False, compare=False)
    batch_stats: Tree = dataclasses.field(default=None, repr=False, compare=False)
    model: Any = dataclasses.field(default=None, repr=False, compare=False)
    _load: Callable[[], Predictor] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def exit_if_stopped(self) -> None:
        """Ends a script whose run was stopped by a signal, so that its next start continues it.

        Raises:
          SystemExit: a signal stopped the run; the status is that of shells, 128 plus its number.
        """
        if self.signal:
            raise SystemExit(128 + self.signal)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The predictor of the best validated weights; of the last ones without a validation.

        It is loaded at its first use. A run with a work directory reads it from there.
        """
        if self._load is None:
            raise AttributeError("this outcome was not made by train.run, so it has no predictor")
        return self._load()
