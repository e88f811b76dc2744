"""Devices and hosts: one mesh with the axis `data`, the same program for one device or many."""

import os
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cnn_jax import errors

DATA_AXIS = "data"
MAX_IN_FLIGHT = 2


def start() -> None:
    """Join the other hosts if a cluster's launcher started this process; call before any JAX work.

    Slurm and Open MPI announce themselves by their number of processes, TPU slices by their
    workers; JAX reads the rest from the same environment.
    """
    counts = (os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    # An interactive allocation sets SLURM_NTASKS too; only a task of a job step has a process id.
    launched = "SLURM_STEP_NODELIST" in os.environ or "OMPI_COMM_WORLD_RANK" in os.environ
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    many_slices = "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    if (launched and any(int(count) > 1 for count in counts)) or len(workers) > 1 or many_slices:
        jax.distributed.initialize()


def is_primary() -> bool:
    """Whether this process is the one that writes logs."""
    return jax.process_index() == 0


def make_mesh() -> Mesh:
    """All devices of all hosts on one axis."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def over_data(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def replicated(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copy every array of `tree` to every device; all hosts must hold the same values."""
    return jax.device_put(tree, replicated(mesh))


def wait_for_earlier(results: Sequence[Any]) -> None:
    """Wait for all but the latest `MAX_IN_FLIGHT` of the results of steps, oldest first.

    Devices are kept busy by one step running and one waiting. Among many waiting ones the threads
    of several CPU devices can be dealt out so that no step gets all that it needs, for ever.
    """
    if len(results) > MAX_IN_FLIGHT:
        jax.block_until_ready(results[-1 - MAX_IN_FLIGHT])


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raise a ValueError unless `batch_size` is positive and divides among the devices."""
    if batch_size < 1:
        raise errors.UserError(f"train.batch_size must be at least 1, got {batch_size}")
    if batch_size % mesh.size:
        below = max(batch_size // mesh.size, 1) * mesh.size
        raise errors.UserError(
            f"train.batch_size {batch_size} does not divide by the {mesh.size} devices; nearest: "
            f"{below}, {below + mesh.size}"
        )
