"""The files of a work directory for its report; those that are missing or damaged are named."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cnn_jax import errors, limits
from cnn_jax.contracts import Description
from cnn_jax.plan import Plan
from cnn_jax.runs import checkpoint, environment, logs, workdir
from cnn_jax.runtime import files

_RESULT = re.compile(r"evaluation-[A-Za-z0-9-]+\.json")
_MOST_RESULTS = 200  # files of evaluations that are read

T = TypeVar("T")


class Missing(NamedTuple):
    """Part of a report that cannot be made.

    Attributes:
      part: the part, or the file.
      reason: the reason, and what to do next.
    """

    part: str
    reason: str


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """The files of a work directory.

    Attributes:
      directory: the work directory.
      last: that of its last phase; `directory` itself for a run without phases.
      settings: the config of the run, or None.
      last_settings: the config of the last phase, or None.
      description: the description of the data set, or None.
      rows: the lines of the log; those of all phases for a run in phases.
      damaged_lines: the number of lines of the log that are no lines of a log.
      starts: the entries of environment.json.
      steps: the steps of the checkpoints, in order.
      results: the contents of the .json files of evaluations, by path.
      missing: the files that are missing or damaged.
    """

    directory: Path
    last: Path
    settings: Plan | None = None
    last_settings: Plan | None = None
    description: Description | None = None
    rows: Sequence[logs.Row] = ()
    damaged_lines: int = 0
    starts: Sequence[Mapping[str, Any]] = ()
    steps: Sequence[int] = ()
    results: Mapping[Path, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    missing: Sequence[Missing] = ()


def attempt(missing: list[Missing], part: str, make: Callable[[], T]) -> T | None:
    """Returns the result of `make`; None if it raises a UserError, which is added to `missing`.

    Args:
      missing: the list that the error is added to.
      part: the part that `make` returns, in words.
      make: a function without arguments.
    """
    try:
        return make()
    except errors.UserError as error:
        missing.append(Missing(part, str(error)))
        return None


def read(directory: Path) -> Stored:
    """Reads the files of a work directory of any version of cnn_jax.

    Raises:
      UserError: there is no config, log, data set description or folder of checkpoints.
    """
    names = (workdir.CONFIG, workdir.METRICS, workdir.DATASET, workdir.CHECKPOINTS)
    if not any((directory / name).exists() for name in names):
        raise errors.UserError(
            f"{directory} is not a work directory: it has none of {', '.join(names)}; check "
            "--workdir"
        )
    missing: list[Missing] = []
    last = workdir.last_phase(directory)
    settings = attempt(missing, workdir.CONFIG, lambda: workdir.load_plan(directory))
    last_settings = settings
    if last != directory:
        name = f"{last.name}/{workdir.CONFIG}"
        last_settings = attempt(missing, name, lambda: workdir.load_plan(last))
    description = attempt(missing, workdir.DATASET, lambda: workdir.load_description(last))
    phases = len(settings.phases) if settings is not None else 0
    log = attempt(missing, workdir.METRICS, lambda: _log(directory, phases))
    rows, damaged_lines = log or ([], 0)
    starts = attempt(missing, workdir.ENVIRONMENT, lambda: environment.read(last))
    checkpoints = last / workdir.CHECKPOINTS
    steps = attempt(missing, workdir.CHECKPOINTS, lambda: checkpoint.steps(checkpoints))
    found = Stored(
        directory=directory,
        last=last,
        settings=settings,
        last_settings=last_settings,
        description=description,
        rows=rows,
        damaged_lines=damaged_lines,
        starts=starts or [],
        steps=steps or [],
        results=_results(last, missing),
        missing=missing,
    )
    missing.extend(_gaps(found))
    return found


def _log(directory: Path, phases: int) -> tuple[list[logs.Row], int]:
    """Returns the lines of the log of a run, and the number of damaged ones.

    Those of a run in phases are joined from the logs of its phases, where there are any.
    """
    folders = [workdir.phase(directory, number) for number in range(1, phases + 1)]
    parts = [logs.read_and_count(folder) for folder in folders]
    if rows := logs.joined([own for own, _ in parts]):
        return rows, sum(damaged for _, damaged in parts)
    return logs.read_and_count(directory)


def _results(directory: Path, missing: list[Missing]) -> dict[Path, dict[str, Any]]:
    """Returns the contents of the evaluations in a work directory, the newest ones last."""
    paths = [path for path in directory.iterdir() if _RESULT.fullmatch(path.name)]
    found = {}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime)[-_MOST_RESULTS:]:
        content = attempt(missing, path.name, functools.partial(_result, path))
        if content is not None:
            found[path] = content
    return found


def _result(path: Path) -> dict[str, Any]:
    """Returns the content of the .json file of an evaluation.

    Raises:
      UserError: the file cannot be read or is damaged.
    """
    try:
        return files.read_json(path, limits.MAX_STORED_BYTES)
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error}") from error


def _gaps(found: Stored) -> list[Missing]:
    """Returns what an unfinished or damaged run lacks, besides files that raise errors."""
    gaps = []
    log = found.last / workdir.METRICS
    if not log.exists() and not found.rows:
        gaps.append(Missing(workdir.METRICS, "there is none; the report has no curves"))
    elif log.exists() and _is_cut(log):
        gaps.append(
            Missing(
                workdir.METRICS,
                "the last line is incomplete, as after a full disk or a power failure; it is left "
                "out. To continue the run, repeat its command",
            )
        )
    if not found.starts and not any(gap.part == workdir.ENVIRONMENT for gap in found.missing):
        gaps.append(
            Missing(
                workdir.ENVIRONMENT,
                "there is none, as before version 0.2.0; versions, hardware and the command are "
                "unknown",
            )
        )
    if not found.steps:
        gaps.append(
            Missing(
                workdir.CHECKPOINTS,
                "there is no checkpoint, so nothing can be evaluated. A run that ended before its "
                "first checkpoint has to be repeated",
            )
        )
    if found.rows and not _is_finished(found):
        gaps.append(
            Missing("end of training", f"{_progress(found)}. To continue, repeat its command")
        )
    return gaps


def _is_cut(log: Path) -> bool:
    """Returns True if a file does not end with a newline."""
    try:
        content = files.content(log, limits.MAX_LOG_BYTES)
    except OSError:
        return False
    return bool(content) and not content.endswith(b"\n")


def _is_finished(found: Stored) -> bool:
    """Returns True if the log of the last phase that the config asks for has its final line."""
    last = found.rows[-1]
    phases = len(found.settings.phases) if found.settings is not None else 0
    return last["split"] == "final" and (not phases or last.get("phase", phases) == phases)


def _progress(found: Stored) -> str:
    """Returns how far an unfinished run has come, in words."""
    last = found.rows[-1]
    text = f"the log ends at step {last['step']:,}, epoch {last['epoch']:g}"
    settings = found.settings
    if settings is None:
        return text
    if settings.phases:
        return f"{text}, in phase {last.get('phase', '?')} of {len(settings.phases)}"
    if settings.train.steps:
        return f"{text} of {settings.train.steps:,} steps"
    return f"{text} of {settings.train.epochs:g} epochs"
