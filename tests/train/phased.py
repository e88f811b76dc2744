"""A run of a few seconds in two phases, and the places where it is killed.

    python -m tests.train.phased WORKDIR [KILL]

Trains in WORKDIR until the process kills itself at the place `KILL`, a key of `KILLS`.
"""

from types import MappingProxyType

from ml_collections import ConfigDict

from cnn_jax.runs import checkpoint
from cnn_jax.train import recorder, start, state
from tests.train import everything


def config() -> ConfigDict:
    """Returns the config of `everything.py` in two phases of 7 and 8 steps; an epoch has 3 steps.

    The first phase trains the output alone, the second one all parameters with another optimizer.
    """
    result = everything.config()
    result.phases = (
        {"steps": 7, "trainable": "^output/", "optim": {"learning_rate": 0.1}},
        {"steps": 8, "optim": {"name": "adamw", "learning_rate": 0.01}},
    )
    return result


KILLS = MappingProxyType(
    {
        "training": lambda: everything.after(2, recorder.Recorder, "after_call"),
        "end": lambda: everything.after(0, recorder.Recorder, "finish"),
        "boundary": lambda: everything.after(0, start, "begin"),
        "start": lambda: everything.after(0, state, "make_create"),
        "next": lambda: everything.after(0, recorder.Recorder, "after_call"),
        "save": lambda: everything.after(1, checkpoint.Checkpoints, "_add_digests"),
        "last": lambda: everything.after(0, recorder.Recorder, "finish"),
    }
)
"""Patches for kills in the order of their starts: in the first phase; after its last checkpoint;
before the second one; before its first step; after it; in a save; after the last checkpoint."""


if __name__ == "__main__":
    everything.main(config(), KILLS)
