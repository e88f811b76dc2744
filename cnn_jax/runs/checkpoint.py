"""Checkpoints of a run: asynchronous, atomic, verified. The only importer of Orbax.

Orbax writes a checkpoint into a temporary directory and renames the directory when it is complete,
so a kill at any moment leaves only complete checkpoints. Before the rename, the SHA-256 of each
file is written beside the files. A checkpoint whose files no longer match is reported and skipped.
Entries of the directory that are no checkpoints, such as a user's copy `3.bak`, are left alone.
"""

import contextlib
import datetime as dt
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from cnn_jax import errors
from cnn_jax.contracts import TrainState
from cnn_jax.metrics import Totals
from cnn_jax.runs import courses, verification
from cnn_jax.runs.courses import Course
from cnn_jax.runs.place import Place, unwritable
from cnn_jax.runs.quiet import hush_orbax
from cnn_jax.runtime import sharding

Tree = TypeVar("Tree")

_STEP = re.compile(r"0|[1-9][0-9]{0,9}")  # '007' is no name of a checkpoint
_LONGEST = 200  # letters of an error of Orbax in a message
_OS_ERROR = re.compile(r"\[os_error_code='(\d{1,4})'")

NOT_VALIDATED = -math.inf  # ranks below every validated checkpoint
# The rank that versions before 0.2.0 stored for a checkpoint that was not validated.
_OLD_NOT_VALIDATED = -1.0


class Restored(NamedTuple, Generic[Tree]):
    """Content of a checkpoint.

    Attributes:
      state: the state.
      pending: the sums of the metrics since the last line of the log.
      course: the state of early stopping and of 'plateau'.
    """

    state: Tree
    pending: Totals
    course: Course = courses.START


class Checkpoints:
    """Writer of a run's checkpoints; it keeps the newest `keep`, and the best by validation."""

    def __init__(self, directory: Path, keep: int, monitor: str) -> None:
        """Prepares `directory` for writing and removes incomplete checkpoints of a killed run.

        Args:
          directory: the directory of the checkpoints.
          keep: the number of newest checkpoints to keep.
          monitor: the name of the validation metric that ranks the checkpoints.

        Raises:
          UserError: the directory cannot be made or read.
        """
        self._directory = directory.absolute()
        self._monitor = monitor
        self._saving = -1
        try:
            self._manager = self._make_manager(keep)
        except Exception as error:  # Orbax raises many types for damaged files.
            raise errors.UserError(
                f"{directory} cannot be used: {_words(error)}; move it away to train from the start"
            ) from error
        self._place = Place(self._directory)
        hush_orbax()

    def _make_manager(self, keep: int) -> ocp.CheckpointManager:
        newest = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(get_metric_fn=_rank_of_any, n=1)
        return ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([newest, best]),
                best_fn=_rank_of_any,
                step_name_format=_Names(),
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._add_digests),
            ),
        )

    def save(
        self,
        step: int,
        state: TrainState,
        pending: Totals,
        rank: float | None = None,
        course: Course = courses.START,
    ) -> None:
        """Copies the state and writes it in the background.

        When this function returns, the caller may overwrite the state. If the step has a checkpoint
        already, nothing happens.

        Args:
          step: the number of steps taken, which names the checkpoint.
          state: the whole state.
          pending: the metrics since the last log line, so that a resumed run logs the same lines.
          rank: the value that 'best' is chosen by, higher is better: the monitored validation
            metric, negated if lower values are better. None if this step was not validated.
          course: the state of early stopping and of 'plateau'.

        Raises:
          UserError: the directory was deleted or moved, or an earlier checkpoint could not be
            written.
        """
        self._place.check()
        if step in self._manager.all_steps():
            return
        ranking = {"accuracy": rank, "monitor": self._monitor}
        progress = {"step": step, "pending": pending, **ranking, **courses.to_dict(course)}
        with self._as_user_errors():
            self._manager.wait_until_finished()
            self._saving = step
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state),
                    progress=ocp.args.JsonSave(progress),
                ),
                metrics=ranking,
            )

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: the directory was deleted or moved, or cannot be written.
        """
        with self._as_user_errors(), contextlib.closing(self._manager):
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        """Raises a UserError for errors of the file system, also of those in threads of Orbax."""
        try:
            yield
        except Exception as error:
            self._place.check()
            reason = _of_file_system(error)
            if reason is None:
                raise
            complete = errors.listed(steps(self._directory)[::-1], 3) or "none"
            # The frames of Orbax hold coroutines, which would complain at the end of the process.
            raise unwritable(
                self._directory, reason, f"complete checkpoints: {complete}"
            ) from error.with_traceback(None)

    def _add_digests(self) -> None:
        if sharding.is_primary():
            temporary = self._directory / f"{self._saving}{ocp.path.atomicity.TMP_DIR_SUFFIX}"
            (temporary / verification.DIGESTS).write_text(
                json.dumps(verification.digests(temporary), indent=1), encoding="ascii"
            )


def steps(directory: Path) -> list[int]:
    """Returns the steps that have a checkpoint, ascending."""
    if not directory.is_dir():
        return []
    names = (entry.name for entry in directory.iterdir())
    return sorted(int(name) for name in names if _STEP.fullmatch(name))


def newest(directory: Path, quarantine: Path | None = None) -> int | None:
    """Returns the step of the newest undamaged checkpoint; None if there is none.

    Args:
      directory: the checkpoints of a run.
      quarantine: the directory that damaged checkpoints are moved to; None to leave them.

    Raises:
      UserError: a damaged checkpoint cannot be moved.
    """
    undamaged = []
    for step in steps(directory):
        try:
            verification.verify(directory, step)
            undamaged.append(step)
        except verification.DamagedError as error:
            logging.error("%s; it is skipped", error)
            if quarantine is not None and sharding.is_primary():
                verification.move_away(directory / str(step), quarantine)
    return undamaged[-1] if undamaged else None


def choose(directory: Path, which: str) -> int:
    """Returns the step of the checkpoint that a user names.

    Args:
      directory: the checkpoints of a run.
      which: 'best' by validation, 'last', or a step.

    Raises:
      UserError: there is no such checkpoint, or it is damaged.
    """
    available = steps(directory)
    if not available:
        raise errors.UserError(f"no checkpoint in {directory}")
    if which == "last":
        step = newest(directory)
        if step is None:
            raise errors.UserError(f"every checkpoint in {directory} is damaged")
        return step
    try:
        if which == "best":
            step = best_step(directory)
        elif which.isdecimal() and int(which) in available:
            step = int(which)
        else:
            raise errors.unknown("checkpoint", which, ["best", "last", *map(str, available)])
        verification.verify(directory, step)
    except verification.DamagedError as error:
        raise errors.UserError(f"{error}; checkpoints in {directory}: {available}") from error
    return step


def restore(directory: Path, step: int, like: Tree) -> Restored[Tree]:
    """Returns the content of a checkpoint.

    Args:
      directory: the checkpoints of a run.
      step: the step of an undamaged checkpoint.
      like: a tree of the same shapes and shardings; parts of the state may be left out.

    Raises:
      UserError: the checkpoint is of another model or optimizer, or damaged in spite of its
        digests.
    """
    try:
        return _restore(directory, step, like)
    except errors.UserError:
        raise
    except Exception as error:  # Orbax raises many types for damaged files.
        raise errors.UserError(
            f"checkpoint {step} in {directory} is damaged: {_words(error)}; move it away to "
            "use the one before it"
        ) from error


def _restore(directory: Path, step: int, like: Tree) -> Restored[Tree]:
    target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    state = ocp.args.PyTreeRestore(
        item=target,
        restore_args=ocp.checkpoint_utils.construct_restore_args(target),
        partial_restore=True,
    )
    _check_structure(directory, step, target)
    content = _read(directory, step, state=state, progress=ocp.args.JsonRestore())
    pending = content.progress["pending"].items()
    totals = {name: (float(value), float(count)) for name, (value, count) in pending}
    return Restored(content.state, totals, courses.parse(content.progress))


def best_step(directory: Path) -> int:
    """Returns the step with the highest rank by validation, the newest among equals."""

    def rank(step: int) -> tuple[float, int]:
        try:
            content = _read(directory, step, progress=ocp.args.JsonRestore())
            return _rank(content.progress), step
        except Exception as error:  # Orbax raises many types for damaged files.
            words = _words(error)
            raise verification.DamagedError(f"checkpoint {step} is damaged: {words}") from error

    return max(steps(directory), key=rank)


def num_parameters(directory: Path, step: int) -> int:
    """Returns the number of trained values of a checkpoint; its metadata is read, and no array.

    Args:
      directory: the checkpoints of a run.
      step: the step of a checkpoint.

    Raises:
      UserError: the metadata is damaged.
    """
    try:
        item = directory.absolute() / str(step) / "state"
        stored = ocp.PyTreeCheckpointHandler().metadata(item).tree["params"]
        return sum(math.prod(shape) for shape in _shapes(stored).values())
    except Exception as error:  # Orbax raises many types for damaged files.
        raise errors.UserError(
            f"checkpoint {step} in {directory} is damaged: {_words(error)}"
        ) from error


def _check_structure(directory: Path, step: int, like: Any) -> None:
    """Raises a UserError unless the parts that `like` has are stored with its names and shapes."""
    item = directory.absolute() / str(step) / "state"
    stored = ocp.PyTreeCheckpointHandler().metadata(item).tree
    parts = ocp.tree.serialize_tree(like, keep_empty_nodes=True)
    requested = {name: stored.get(name, {}) for name in parts}
    if "extra" in requested:  # Its owners are restored one by one.
        extra = requested["extra"]
        requested["extra"] = {name: extra[name] for name in parts["extra"] if name in extra}
    there, wanted = _shapes(requested), _shapes(like)
    wrong = sorted(
        f"{name} is {there.get(name, 'missing')} there, {wanted.get(name, 'missing')} here"
        for name in there.keys() | wanted.keys()
        if there.get(name) != wanted.get(name)
    )
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise errors.UserError(
            f"checkpoint {step} in {directory} is not of this model and optimizer: "
            f"{'; '.join(wrong[:3])}{more}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = ocp.tree.to_flat_dict(tree).items()
    return {"/".join(path): tuple(leaf.shape) for path, leaf in leaves}


def _read(directory: Path, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    path = directory.absolute() / str(step)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        return reader.restore(path, args=ocp.args.Composite(**items))


class _Names(ocp.path.step.NameFormat):
    """Format of checkpoint names for Orbax: step numbers only.

    With its own format, Orbax would take entries such as `3.bak` for checkpoints too.
    """

    def build_name(self, step: int) -> str:
        return str(step)

    def find_all(self, base_path: Any) -> Iterator[ocp.path.step.Metadata]:
        return (self.find_step(base_path, step) for step in steps(Path(base_path)))

    def find_step(self, base_path: Any, step: int) -> ocp.path.step.Metadata:
        return _Found(step=step, path=ocp.path.step.build_step_path(base_path, self, step))


class _Found(ocp.path.step.Metadata):
    """Metadata of a checkpoint for Orbax, which would read its time from a file without digest."""

    @property
    def commit_timestamp(self) -> dt.datetime:
        return dt.datetime.fromtimestamp(self.path.stat().mtime, dt.UTC)


def _of_file_system(error: Exception) -> OSError | None:
    """Returns the error of the file system that an error of Orbax reports, or None."""
    if isinstance(error, OSError):
        return error
    found = _OS_ERROR.search(str(error))  # TensorStore raises ValueError.
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _words(error: Exception) -> str:
    """Returns an error of Orbax in one line of a readable length."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _rank(metrics: Mapping[str, Any]) -> float:
    rank = metrics["accuracy"]
    if rank is None or ("monitor" not in metrics and rank == _OLD_NOT_VALIDATED):
        return NOT_VALIDATED
    return NOT_VALIDATED if math.isnan(rank) else float(rank)


def _rank_of_any(metrics: Any) -> float:
    """Returns the rank that is stored in metrics, or the lowest rank if they are damaged."""
    try:
        return _rank(metrics)
    except (KeyError, OverflowError, TypeError):
        return NOT_VALIDATED
