"""Devices and hosts: the mesh, and how state and batches are laid out on it."""

import dataclasses
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax import errors
from cnn_jax.runtime.jax_internals import multihost_utils

DATA_AXIS = "data"
FSDP_AXIS = "fsdp"
MAX_IN_FLIGHT = 2

Rules = tuple[tuple[str, PartitionSpec], ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The layout of state and batches on a mesh.

    The batch is split over the mesh axes `data` and `fsdp`. An array of the state takes the
    partition of the first rule that matches its path. Without a match, its largest axis that
    divides is split over `fsdp`; without such an axis, every device has a whole copy.

    Attributes:
      mesh: the devices; with an axis `data`, and optionally others.
      rules: pairs of a regular expression, searched in paths such as 'params/conv1/kernel', and
        the partition of the arrays that it matches.
    """

    mesh: Mesh
    rules: Rules = ()

    @property
    def batch(self) -> NamedSharding:
        """The sharding that splits the leading axis over the devices."""
        return NamedSharding(self.mesh, PartitionSpec(self._batch_axes))

    @property
    def whole(self) -> NamedSharding:
        """The sharding with a whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def batch_divisor(self) -> int:
        """The number of parts that a batch is split into."""
        sizes = dict(self.mesh.shape)
        return int(sizes[DATA_AXIS] * sizes.get(FSDP_AXIS, 1))

    @property
    def _batch_axes(self) -> tuple[str, ...]:
        return tuple(name for name in (DATA_AXIS, FSDP_AXIS) if name in self.mesh.axis_names)

    def of(self, shapes: Any) -> Any:
        """Returns the sharding of every array of a tree.

        Args:
          shapes: a tree of arrays or of `jax.ShapeDtypeStruct`.
        """
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: NamedSharding(self.mesh, self._partition(path, leaf.shape)), shapes
        )

    def padded(self, batch_size: int) -> int:
        """Returns a batch size rounded up to a multiple of `batch_divisor`."""
        return -(-batch_size // self.batch_divisor) * self.batch_divisor

    def local_rows(self, batch_size: int) -> tuple[int, ...]:
        """Returns the rows of a batch that the devices of this process hold, in order.

        Args:
          batch_size: the number of rows over all processes, a multiple of `batch_divisor`.
        """
        parts = self.batch.addressable_devices_indices_map((batch_size,)).values()
        rows = (range(batch_size)[part[0]] for part in parts if part is not None)
        return tuple(sorted(set(itertools.chain.from_iterable(rows))))

    def assemble(
        self, local: Mapping[str, np.ndarray], batch_size: int, axis: int
    ) -> dict[str, jax.Array]:
        """Returns arrays that are split over the devices, from the rows of each process.

        Args:
          local: arrays with the rows `local_rows(batch_size)` on `axis`.
          batch_size: the number of rows over all processes.
          axis: the axis of the batch.
        """
        partition = NamedSharding(self.mesh, PartitionSpec(*[None] * axis, self._batch_axes))
        if jax.process_count() == 1:
            return {name: jax.device_put(part, partition) for name, part in local.items()}
        position = {row: index for index, row in enumerate(self.local_rows(batch_size))}

        def place(part: np.ndarray) -> jax.Array:
            def rows_of(index: tuple[slice, ...] | None) -> np.ndarray:
                wanted = range(batch_size)[index[axis]] if index else ()
                return part.take([position[row] for row in wanted], axis)

            shape = (*part.shape[:axis], batch_size, *part.shape[axis + 1 :])
            return jax.make_array_from_callback(shape, partition, rows_of)

        return {name: place(part) for name, part in local.items()}

    def check_batch_size(self, batch_size: int) -> None:
        """Raises a UserError unless a training batch divides among the devices."""
        parts = self.batch_divisor
        if batch_size % parts:
            below = max(batch_size // parts, 1) * parts
            raise errors.UserError(
                f"train.batch_size {batch_size} does not divide by the {parts} devices; nearest: "
                f"{below}, {below + parts}"
            )

    def _partition(self, path: tuple[Any, ...], shape: tuple[int, ...]) -> PartitionSpec:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        for pattern, partition in self.rules:
            if re.search(pattern, name):
                return partition
        parts = dict(self.mesh.shape).get(FSDP_AXIS, 1)
        dividing = [axis for axis, size in enumerate(shape) if size % parts == 0]
        if parts == 1 or not dividing:
            return PartitionSpec()
        largest = max(dividing, key=lambda axis: shape[axis])
        return PartitionSpec(*[None] * largest, FSDP_AXIS)


def start() -> None:
    """Joins the other hosts if a cluster's launcher started this process; call before JAX work.

    Slurm and Open MPI set the number of processes in the environment, TPU slices the names of
    their workers. JAX reads the rest from the same environment.
    """
    counts = (os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    # An interactive allocation sets SLURM_NTASKS too; only a task of a job step has a process id.
    launched = "SLURM_STEP_NODELIST" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    many_slices = "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    if (launched and any(int(count) > 1 for count in counts)) or len(workers) > 1 or many_slices:
        jax.distributed.initialize()


def check_devices() -> None:
    """Raises a UserError if JAX finds none of the devices that JAX_PLATFORMS asks for."""
    try:
        jax.devices()
    except (AssertionError, RuntimeError) as error:  # A plugin that is missing leaves no message.
        line = " ".join(str(error).split()).partition(" (set JAX_PLATFORMS")[0]
        reason = line.rstrip(".") or "there is no plugin for it"
        given = jax.config.values["jax_platforms"] or ""
        raise errors.UserError(
            f"JAX finds no device for JAX_PLATFORMS={given!r}: {reason}; "
            "install JAX for this device, or set JAX_PLATFORMS=cpu"
        ) from error


def is_primary() -> bool:
    """Returns True on the process that writes files and logs (process 0)."""
    return jax.process_index() == 0


def agree(value: bool) -> bool:
    """Returns the primary process's value on every process; all of them must call this."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def make_layout() -> Layout:
    """Returns the layout over all devices of all hosts, on the one axis `data`."""
    return Layout(jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,)))


def replicate(tree: Any, layout: Layout) -> Any:
    """Copies every array of `tree` to every device; all hosts must hold the same values."""
    return jax.device_put(tree, layout.whole)


def wait_for_earlier(results: Sequence[Any]) -> None:
    """Waits for all but the latest `MAX_IN_FLIGHT` results of steps, oldest first.

    One running step and one waiting step keep the devices busy. With many waiting steps, the
    threads of several CPU devices can be distributed so that no step gets all threads it needs:
    a deadlock.
    """
    if len(results) > MAX_IN_FLIGHT:
        jax.block_until_ready(results[-1 - MAX_IN_FLIGHT])
