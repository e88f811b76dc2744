"""The training loop."""

from collections import deque

from cnn_jax.contracts import Sums, TrainState
from cnn_jax.runtime import sharding
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import out_of_memory
from cnn_jax.train.job import Job
from cnn_jax.train.recorder import Recorder


def train(
    job: Job, state: TrainState, start: int, recorder: Recorder, interruption: Interruption
) -> tuple[TrainState, int]:
    """Takes the steps of a run from `start` until its end, a signal, `watch` or early stopping.

    Args:
      job: the parts of the run.
      state: the state after `start` steps; its memory is reused.
      start: the number of steps that were taken before.
      recorder: logs, validates and saves beside the steps.
      interruption: receives the signals. Before the first call of the compiled step, a
        signal ends the command at once.

    Returns:
      The state and the number of steps that it has taken.
    """
    step = start
    in_flight: deque[Sums] = deque(maxlen=sharding.MAX_IN_FLIGHT + 1)
    with out_of_memory.Guard(job) as guard:
        for call, inputs in recorder.waiting.inputs(job.feed.train_inputs(job.calls(start))):
            with recorder.compiling(call):
                state, sums = guard.take(state, inputs, len(call), recorder.rates(call))
            interruption.defer()
            recorder.waiting.started(sums)
            in_flight.append(sums)
            sharding.wait_for_earlier(in_flight)
            step = call.stop
            if recorder.after_call(call, state, sums, interruption.requested()):
                break
    return state, step
