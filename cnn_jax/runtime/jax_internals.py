"""Names of JAX outside its compatibility policy, which the rest of the package imports from here.

JAX may change `jax.core`, `jax.experimental`, `jax.extend` and `jax.interpreters` in any release:
https://docs.jax.dev/en/latest/api_compatibility.html. No other file of the package uses them, as
`tests/test_imports.py` checks, so a release of JAX can break the package only here and in the
public functions. The comment of each import names a replacement.
"""

# Abstract values of the primitives' results, and the values that JAX traces. `jax.eval_shape` and
# `jax.typeof` return abstract values too. A traced value is also one for which `float(value)`
# raises `jax.errors.ConcretizationTypeError`.
from jax.core import ShapedArray, Tracer

# Taylor coefficients: without `jet`, its rules in `ops.rules` have no use and go; users nest
# `jax.jvp`. Messages between processes: an array that `jax.jit` replicates over all devices
# replaces `broadcast_one_to_all`. Nothing public replaces `reached_preemption_sync_point`; without
# it, a SIGTERM must reach every process.
from jax.experimental import jet, multihost_utils

# `reset_cache` takes a new cache directory into use after the first compilation. Without it, the
# directory must be set before that, by `jax.config` or the environment.
from jax.experimental.compilation_cache import compilation_cache

# Jaxprs, from which `models.products` counts multiply-adds, and primitives. `cost_analysis()` of a
# lowered function replaces the counts of a whole network. `jax.custom_jvp` with
# `jax.lax.platform_dependent` and `jax.ffi.ffi_call` replaces primitives; then programs for several
# devices and exported ones need a switch of their own, because they cannot use native kernels.
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive

# Rules of the primitives for derivatives, `vmap` and the lowering to StableHLO. JAX's proposal
# 15856 moves them to `jax.extend.interpreters`. `jax.custom_jvp` and `jax.custom_batching`, or
# those functions without primitives, replace the rules otherwise.
from jax.interpreters import ad, batching, mlir

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Primitive",
    "ShapedArray",
    "Tracer",
    "ad",
    "batching",
    "compilation_cache",
    "jet",
    "mlir",
    "multihost_utils",
]
