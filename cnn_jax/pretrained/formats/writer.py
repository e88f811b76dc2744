"""Writer of safetensors files; the only importer of the safetensors package."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from cnn_jax import errors
from cnn_jax.pretrained.formats.files import SAFETENSORS
from cnn_jax.runtime import files as runtime_files


def check_path(path: Path, overwrite: bool) -> None:
    """Checks that a safetensors file can be written to `path`.

    Raises:
      UserError: the name has another ending, the file exists and `overwrite` is False, or its
        directory does not exist.
    """
    if path.suffix != SAFETENSORS:
        raise errors.UserError(
            f"{path} must end in {SAFETENSORS}, so that readers know its format; "
            f"for example {path.name}{SAFETENSORS}"
        )
    if path.is_dir():
        raise errors.UserError(f"{path} is a directory; pass the path of a file")
    if path.exists() and not overwrite:
        raise errors.UserError(f"{path} exists; pass overwrite=True to replace it, or another path")
    if not path.parent.is_dir():
        raise errors.UserError(f"the directory {path.parent} does not exist; create it first")


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    *,
    overwrite: bool,
) -> None:
    """Writes a safetensors file; after a crash, `path` has either its old or its new content.

    Args:
      path: the file.
      tensors: name to array, in C order.
      metadata: text that the header stores.
      overwrite: whether an existing file is replaced.

    Raises:
      UserError: `check_path` refuses the path, the file cannot be written, or the format has no
        such dtype.
    """
    check_path(path, overwrite)
    try:
        with runtime_files.replacing(path) as temporary:
            mode = temporary.stat().st_mode
            safetensors.numpy.save_file(dict(tensors), temporary, dict(metadata))
            temporary.chmod(mode)  # The package makes the file readable by its owner only.
    except safetensors.SafetensorError as error:
        raise errors.UserError(f"{path} cannot be written: {error}") from error
