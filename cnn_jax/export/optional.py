"""Packages that an installation of cnn_jax need not have: those of the extra `export`."""

import importlib
from typing import Any

from cnn_jax import errors

NEEDED = {"jax": "flatbuffers", "onnx": "onnx"}
"""The package that writes the files of a format."""


def load(form: str) -> Any:
    """Returns the package that writes the files of a format; None if it needs no further package.

    Raises:
      UserError: the package is not installed.
    """
    if form not in NEEDED:
        return None
    package = NEEDED[form]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise errors.UserError(
            f"the format {form} needs the package {package} ({error}); install it with: pip "
            f"install {package}"
        ) from error
