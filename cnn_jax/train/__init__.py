"""Training: `run` trains a config in a work directory, or continues it.

The path of a batch through the files:

1. `runner.py` reads the plan, opens the source, locks the work directory, restores the state.
2. `checks.py` checks the plan; `job.py` makes the parts: feed, objective, optimizer, programs.
3. `loop.py` takes the inputs of each call from the feed and runs the compiled steps.
4. `step.py` is one step, traced: batch, loss and gradient, update; `accumulation.py` computes the
   gradient from parts of the batch.
5. `data/resident.py` makes the batch: `Traced.training`, with `data/augment/`.
6. `objectives/classification.py` applies the network and computes the loss of `losses.py`.
7. `optim/` made the optimizer that updates the parameters.
8. `window.py` sums the metrics until they are logged.
9. `recorder.py` logs, validates with `evaluators/`, and saves with `runs/checkpoint.py`;
   `decisions.py` lowers the rate or ends the run after a validation.
10. `state.py` makes the initial state; `contracts.py` says what it holds. `start.py` takes it from
    weights (`weights.py`, `defaults.py`), `extension.py` from a finished run. `teacher.py` opens
    the run to learn from.
11. `phases.py` runs the phases of a config one after another, each as above.
"""

from cnn_jax.train.checks import check
from cnn_jax.train.outcome import Outcome
from cnn_jax.train.runner import run

__all__ = ["Outcome", "check", "run"]
