"""The logs of one or more runs as a table, for pandas."""

from pathlib import Path
from typing import Any

from cnn_jax import errors, plan
from cnn_jax.runs import logs, workdir
from cnn_jax.runtime import files


def read(directory: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of the logs of one run, or of all runs below a directory.

    Args:
      directory: a work directory, or a directory with work directories in it, at any depth.

    Returns:
      One dictionary for each line of a `metrics.jsonl`: `run`, the work directory relative to
      `directory`; the config keys in which the runs differ; `step`, `epoch`, `split`, and values by
      name. A run in phases has the lines of all phases, with their number as `phase`.
      `pandas.DataFrame(runs.read(DIR))` makes a table of it.

    Raises:
      UserError: there is no run, or a file of a run is damaged.
    """
    root = files.local(directory, "directory")
    found = sorted(path.parent for path in root.rglob(workdir.CONFIG))
    found = [path for path in found if workdir.whole(path) == path]
    if not found:
        raise errors.UserError(f"{root} has no run: there is no {workdir.CONFIG} in or below it")
    configs = [plan.flatten(workdir.load_plan(path)) for path in found]
    paths = dict.fromkeys(path for config in configs for path in config)
    differing = [
        path for path in paths if any(one.get(path) != configs[0].get(path) for one in configs)
    ]
    return [
        {"run": str(path.relative_to(root)), **{key: config.get(key) for key in differing}, **row}
        for path, config in zip(found, configs, strict=True)
        for row in _rows(path, len(config["phases"]))
    ]


def _rows(directory: Path, phases: int) -> list[logs.Row]:
    """Returns the lines of a run; those of a run in phases also while a phase is running.

    Args:
      directory: the work directory of the run.
      phases: the number of its phases; 0 for none.
    """
    return logs.read_phases(directory, phases) or logs.read(directory)
