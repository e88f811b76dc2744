"""Console scripts of the installed package, such as `cnn-jax-train`; see `pyproject.toml`.

Each runs its module as `python -m` does, so the command is defined once.
"""

import functools
import runpy


def _run(module: str) -> None:
    # `alter_sys` makes the module `__main__`: worker processes that are spawned import it by name.
    runpy.run_module(module, run_name="__main__", alter_sys=True)


train = functools.partial(_run, "cnn_jax.main")
evaluate = functools.partial(_run, "cnn_jax.evaluate")
predict = functools.partial(_run, "cnn_jax.predict")
features = functools.partial(_run, "cnn_jax.features")
export = functools.partial(_run, "cnn_jax.export")
inspect = functools.partial(_run, "cnn_jax.inspect")
report = functools.partial(_run, "cnn_jax.report")
summary = functools.partial(_run, "cnn_jax.summary")
benchmark = functools.partial(_run, "cnn_jax.benchmark")
pack = functools.partial(_run, "cnn_jax.data.pack")
show = functools.partial(_run, "cnn_jax.data.show")
doctor = functools.partial(_run, "cnn_jax.doctor")
