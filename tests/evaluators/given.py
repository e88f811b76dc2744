"""Networks and a data set that tests of evaluations by command are given."""

import dataclasses
from pathlib import Path

from cnn_jax.evaluators.networks import Networks
from cnn_jax.plan import Plan
from cnn_jax.runs import checkpoint, workdir


def first(runs: tuple[Path, Path], which: str = "last") -> Networks:
    return Networks(runs=runs[:1], checkpoint=which)


def steps(run: Path) -> tuple[str, ...]:
    """Returns the steps of a run's checkpoints, in ascending order."""
    return tuple(map(str, checkpoint.steps(run / workdir.CHECKPOINTS)))


def on_another_set(run: Path, path: Path) -> Plan:
    """Returns the plan of a run with an `.npz` file in place of its data set."""
    stored = workdir.load_plan(run)
    keys = dataclasses.replace(stored.data, source="npz", directory=str(path))
    return dataclasses.replace(stored, data=keys)
