"""JAX's devices and their memory."""

import os
from collections import Counter
from collections.abc import Iterator

from cnn_jax.doctor import nvidia, settings
from cnn_jax.doctor.findings import Finding, gigabytes, note, ok, problem


def start() -> Iterator[Finding]:
    """Yields a finding with the devices that JAX uses, or with why JAX does not start."""
    import jax

    from cnn_jax import errors
    from cnn_jax.runtime import sharding

    try:
        sharding.check_devices()
    except errors.UserError as error:
        text, _, step = str(error).rpartition("; ")
        yield problem("devices", text, step)
        return
    kinds = Counter(f"{each.platform} ({each.device_kind})" for each in jax.local_devices())
    yield ok("devices", ", ".join(f"{count} {kind}" for kind, count in kinds.items()))


def unused_gpu() -> Iterator[Finding]:
    """Yields a finding if the machine has an NVIDIA GPU that JAX does not use."""
    import jax

    # Without the plugin, the part NVIDIA says why JAX does not use the GPU.
    if jax.default_backend() != "cpu" or not (nvidia.has_plugin() and nvidia.is_present()):
        return
    if name := _hiding_variable():
        text = f"not used, because {name} is {os.environ[name]!r}"
        yield note("GPU", text, f"unset {name} to use the GPU")
        return
    try:
        jax.devices("cuda")
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        step = "correct the findings of the part NVIDIA; TF_CPP_MIN_LOG_LEVEL=0 shows more"
        yield problem("GPU", f"not used: {reason}", step)


def _hiding_variable() -> str:
    """Returns the name of an environment variable that hides the GPUs from JAX, or ''."""
    if os.environ.get("JAX_PLATFORMS"):
        return "JAX_PLATFORMS"
    return "CUDA_VISIBLE_DEVICES" if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") else ""


def memory() -> Iterator[Finding]:
    """Yields a finding with the memory of each device; a CPU has the memory of the machine."""
    import jax

    for device in jax.local_devices():
        statistics = device.memory_stats() or {}
        if limit := statistics.get("bytes_limit", 0):
            used = gigabytes(statistics.get("bytes_in_use", 0))
            text = f"{gigabytes(limit)} for JAX, {used} in use"
            yield ok(f"memory of device {device.id}", text)
    fraction = settings.preallocated()
    if jax.default_backend() == "gpu":
        yield ok("reserved at the start", f"{fraction:.0%} of the memory of each GPU")
