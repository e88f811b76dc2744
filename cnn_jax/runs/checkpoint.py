"""Checkpoints of a run: asynchronous, atomic, verified. The only importer of Orbax.

Orbax writes a step into a temporary directory and renames it when it is whole, so a kill at any
moment leaves only whole steps. Just before that, the SHA-256 of its files is put beside them; a
step whose files no longer match is reported and left out, and the one before it used.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp
from absl import logging
from orbax.checkpoint import checkpoint_managers

from cnn_jax import errors
from cnn_jax.metrics import Totals
from cnn_jax.runtime import sharding
from cnn_jax.train.state import TrainState

DIGESTS = "sha256.json"
Tree = TypeVar("Tree")

NOT_VALIDATED = -1.0  # ranks below every accuracy


class Restored(NamedTuple, Generic[Tree]):
    """What a checkpoint holds: the state, and the metrics of the steps since the last log line."""

    state: Tree
    pending: Totals


class Checkpoints:
    """Writes the checkpoints of a run: the newest `keep`, and the best by validation accuracy."""

    def __init__(self, directory: Path, keep: int) -> None:
        """Make `directory` ready for writing; what a killed run left half-written goes."""
        self._directory = directory.absolute()
        self._saving = -1
        newest = checkpoint_managers.LatestN(keep)
        best = checkpoint_managers.BestN(get_metric_fn=_accuracy, n=1)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy([newest, best]),
                best_fn=_accuracy,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._add_digests),
            ),
        )

    def save(
        self, step: int, state: TrainState, pending: Totals, accuracy: float | None = None
    ) -> None:
        """Start to save; when this returns the state has been copied and may be overwritten.

        Args:
          step: names the checkpoint; one that exists already is left as it is.
          state: the whole state.
          pending: the metrics since the last log line, so that a resumed run logs the same.
          accuracy: by validation at this step, if there was one.
        """
        if step in self._manager.all_steps():
            return
        ranking = {"accuracy": NOT_VALIDATED if accuracy is None else accuracy}
        self._manager.wait_until_finished()
        self._saving = step
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeSave(state),
                progress=ocp.args.JsonSave({"pending": pending, **ranking}),
            ),
            metrics=ranking,
        )

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _add_digests(self) -> None:
        if sharding.is_primary():
            (temporary,) = self._directory.glob(f"{self._saving}.*")
            (temporary / DIGESTS).write_text(json.dumps(_digests(temporary), indent=1))


def steps(directory: Path) -> list[int]:
    """The steps that have a checkpoint, ascending."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal())


def restore_newest(
    directory: Path, like: Tree, quarantine: Path | None = None
) -> Restored[Tree] | None:
    """The newest checkpoint that is undamaged; None if there is none.

    Args:
      directory: the checkpoints of a run.
      like: a tree of the same shapes and shardings; parts of the state may be left out.
      quarantine: where damaged checkpoints are moved to; None to leave them.

    Raises:
      ValueError: a checkpoint is undamaged but of another model or optimizer.
    """
    whole = []
    for step in steps(directory):
        try:
            _verify(directory, step)
            whole.append(step)
        except _DamagedError as error:
            logging.error("%s; it is left out", error)
            if quarantine is not None and sharding.is_primary():
                _move(directory / str(step), quarantine)
    return _restore(directory, whole[-1], like) if whole else None


def restore(directory: Path, which: str, like: Tree) -> Restored[Tree]:
    """The checkpoint that a user names.

    Args:
      directory: the checkpoints of a run.
      which: 'best' by validation accuracy, 'last', or a step.
      like: a tree of the same shapes and shardings; parts of the state may be left out.

    Raises:
      ValueError: there is no such checkpoint, it is damaged, or of another model.
    """
    available = steps(directory)
    if not available:
        raise errors.UserError(f"no checkpoint in {directory}")
    if which == "last":
        restored = restore_newest(directory, like)
        if restored is None:
            raise errors.UserError(f"every checkpoint in {directory} is damaged")
        return restored
    try:
        if which == "best":
            step = best_step(directory)
        elif which.isdecimal() and int(which) in available:
            step = int(which)
        else:
            raise errors.unknown("checkpoint", which, ["best", "last", *map(str, available)])
        _verify(directory, step)
    except _DamagedError as error:
        raise errors.UserError(f"{error}; all there are: {available}") from error
    return _restore(directory, step, like)


def best_step(directory: Path) -> int:
    """The step with the highest validation accuracy, the newest among equals."""

    def rank(step: int) -> tuple[float, int]:
        try:
            content = _read(directory, step, progress=ocp.args.JsonRestore())
            accuracy = _accuracy(content.progress)
        except (KeyError, OSError, ValueError) as error:
            raise _DamagedError(f"checkpoint {step} is damaged: {error}") from error
        return accuracy, step

    return max(steps(directory), key=rank)


class _DamagedError(Exception):
    """The files of a checkpoint are not what was written."""


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
    return Restored(content.state, {name: (value, count) for name, (value, count) in pending})


def _check_structure(directory: Path, step: int, like: Any) -> None:
    """Raise a ValueError unless the parts that `like` has are stored with its names and shapes."""
    item = directory.absolute() / str(step) / "state"
    stored = ocp.PyTreeCheckpointHandler().metadata(item).tree
    parts = ocp.tree.serialize_tree(like, keep_empty_nodes=True)
    there, wanted = _shapes({name: stored.get(name, {}) for name in parts}), _shapes(like)
    wrong = sorted(
        f"{name} is {there.get(name, 'missing')} there, {wanted.get(name, 'missing')} here"
        for name in there.keys() | wanted.keys()
        if there.get(name) != wanted.get(name)
    )
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise errors.UserError(
            f"checkpoint {step} in {directory} is whole, but not of this model and optimizer: "
            f"{'; '.join(wrong[:3])}{more}"
        )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = ocp.tree.to_flat_dict(tree).items()
    return {"/".join(path): tuple(leaf.shape) for path, leaf in leaves}


def _read(directory: Path, step: int, **items: ocp.args.CheckpointArgs) -> ocp.args.Composite:
    path = directory.absolute() / str(step)
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        return reader.restore(path, args=ocp.args.Composite(**items))


def _verify(directory: Path, step: int) -> None:
    path = directory / str(step)
    try:
        expected = json.loads((path / DIGESTS).read_text())
        found = _digests(path)
    except (OSError, ValueError) as error:
        raise _DamagedError(f"checkpoint {step} is damaged: {DIGESTS}: {error}") from error
    wrong = sorted(name for name in expected if found.get(name) != expected[name])
    if wrong:
        raise _DamagedError(
            f"checkpoint {step} is damaged: {', '.join(wrong)} is missing or not what was written"
        )


def _digests(path: Path) -> dict[str, str]:
    """The SHA-256 of each file of each item; Orbax's notes beside the items change later."""
    return {
        file.relative_to(path).as_posix(): _sha256(file)
        for file in path.glob("*/**/*")
        if file.is_file()
    }


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _move(path: Path, quarantine: Path) -> None:
    quarantine.mkdir(exist_ok=True)
    target = quarantine / path.name
    while target.exists():
        target = target.with_name(target.name + "-again")
    path.rename(target)


def _accuracy(metrics: Mapping[str, Any]) -> float:
    return float(metrics["accuracy"])
