"""cnn_jax: convolutional image classifiers in JAX and Flax, from LeNet-5 onwards."""

import importlib
from types import ModuleType

__version__ = "0.2.0"

_PUBLIC = (
    *("config_files", "contracts", "data", "doctor", "errors", "evaluators", "export", "features"),
    *("losses", "metrics", "models", "objectives", "ops", "optim", "plan", "predictor"),
    *("pretrained", "report", "runs", "train"),
)


def __getattr__(name: str) -> ModuleType:
    """Imports a public module at its first use, so that `import cnn_jax` loads nothing else."""
    if name in _PUBLIC:
        return importlib.import_module(f"cnn_jax.{name}")
    raise AttributeError(f"module 'cnn_jax' has no attribute {name!r}")
