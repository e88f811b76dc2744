"""Number of threads of XLA's CPU client, on which the rounding of its results depends.

XLA splits its sums among the threads, so other numbers of threads round otherwise. The client takes
the number when it starts: from the environment variables `VARIABLES`, else one thread for each core
that the process may use. With 2 threads on 1 core, training steps of ResNet-20 and ViT-Ti take 1.0
to 1.2 times the CPU time that they take with 1 thread.
"""

import os

# Read by XLA's `DefaultThreadPoolSize` in xla/pjrt/utils.cc, in this order.
VARIABLES = ("PJRT_NPROC", "NPROC")
_MAX = 4096  # More threads are a damaged number; the largest servers have about 1,000 cores.


def number() -> int:
    """Returns the number of threads that the client has, or will have when it starts."""
    for name in VARIABLES:
        try:
            return max(int(os.environ[name]), 1)
        except (KeyError, ValueError):
            continue
    return cores()


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pin(wanted: object) -> None:
    """Sets the number of threads, unless the user has set it or the client has started.

    Args:
      wanted: the number; anything but an integer in the range that is possible is ignored.
    """
    is_possible = isinstance(wanted, int) and 1 <= wanted <= _MAX
    if is_possible and not any(name in os.environ for name in VARIABLES) and not has_started():
        os.environ[VARIABLES[0]] = str(wanted)


def has_started() -> bool:
    """Returns True if JAX has started its backends, which then keep their settings."""
    import jax  # `cnn_jax.doctor` counts the cores of a machine whose JAX is broken.

    before = jax.config.values["jax_num_cpu_devices"]
    try:
        # JAX refuses to change this setting once it has backends. There is no function to ask.
        jax.config.update("jax_num_cpu_devices", before + 1)
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", before)
    return False
