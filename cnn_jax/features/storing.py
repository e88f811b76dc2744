"""The .npz file of features."""

import os
from pathlib import Path

import numpy as np

from cnn_jax.features.computing import Features
from cnn_jax.runtime import files

ENDING = ".npz"


def check_out(path: Path) -> None:
    """Checks that features can be written to a new file.

    Raises:
      UserError: the file exists, its folder does not, or its ending is not `ENDING`.
    """
    files.check_new(path, [ENDING])


def write(path: Path, found: Features) -> None:
    """Writes features to a new .npz file, which `numpy.load` reads without pickle.

    After a crash there is either the whole file or none. Its arrays are `features`, `names` (texts)
    and, of labelled pictures, `labels` and `class_names` (texts).

    Raises:
      UserError: the file exists or cannot be written.
    """
    arrays = {"features": found.features, "names": np.array(found.names, np.str_)}
    if found.labels is not None and found.class_names is not None:
        arrays["labels"] = found.labels
        arrays["class_names"] = np.array(found.class_names, np.str_)
    with files.replacing(path, ENDING) as temporary:
        with temporary.open("wb") as file:  # NumPy would add an ending to another path.
            np.savez(file, allow_pickle=False, **arrays)
        if os.path.lexists(path):
            raise files.exists(path)
