"""Sources of labelled images, chosen by `data.source`.

`open_source` imports the module of the chosen source only: scikit-learn and TFDS are slow to
import.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_jax import errors

if TYPE_CHECKING:
    from cnn_jax import contracts, plan

SOURCES = ("auto", "digits", "fake", "folder", "idx", "npz", "shards", "tfds")


def check(data: "plan.Data") -> None:
    """Checks the keys of the source. It reads no file; for 'auto', it lists `data.directory`.

    Raises:
      UserError: an unknown source, or a name or a directory that the source does not accept.
    """
    match data.source:
        case "digits" | "fake":
            return
        case "auto":
            resolve(data)
        case "folder" | "npz" | "shards":
            if not data.directory:
                raise errors.UserError(
                    f"data.directory is missing: the place of the data set, for data.source "
                    f"{data.source!r}"
                )
        case "idx":
            from cnn_jax.data.sources import idx

            idx.check(data.name, data.directory)
        case "tfds":
            from cnn_jax.data.sources import tfds

            tfds.check(data.name)
        case _:
            raise errors.unknown("data.source", data.source, SOURCES)


def resolve(data: "plan.Data") -> "plan.Data":
    """Replaces the source 'auto' by the source that reads `data.directory`.

    Raises:
      UserError: no source reads what is there.
    """
    if data.source != "auto":
        return data
    from cnn_jax.data.sources import detect

    return dataclasses.replace(data, source=detect.detect(data.directory, data.name))


def title(data: "plan.Data") -> str:
    """Returns the name of a data set for messages and plots, such as 'idx fashion_mnist'."""
    has_name = data.source in ("idx", "tfds") and data.name
    if data.source in ("folder", "npz", "shards"):
        return f"{data.source} {Path(data.directory).name}"
    return f"{data.source} {data.name}" if has_name else data.source


def open_source(data: "plan.Data") -> "contracts.Source":
    """Returns the source of a plan; 'auto' is replaced by the source that reads the directory.

    Raises:
      UserError: an unknown source, or a data set that is missing, damaged or cannot be prepared.
    """
    source = _open(resolve(data))
    if not data.classes:
        return source
    from cnn_jax.data.sources import classes

    return classes.keep(source, [name.strip() for name in data.classes.split(",")])


def _open(data: "plan.Data") -> "contracts.Source":
    match data.source:
        case "digits":
            from cnn_jax.data.sources import digits

            return digits.source()
        case "fake":
            from cnn_jax.data.sources import fake

            return fake.source(*data.input_shape)
        case "folder":
            from cnn_jax.data.sources import folders

            return folders.source(data.directory)
        case "idx":
            from cnn_jax.data.sources import idx

            return idx.source(data.name, data.directory)
        case "npz":
            from cnn_jax.data.sources import npz

            return npz.source(data.directory)
        case "shards":
            from cnn_jax.data.sources import shards

            return shards.source(data.directory)
        case "tfds":
            from cnn_jax.data.sources import tfds

            return tfds.source(data.name, data.directory)
    raise errors.unknown("data.source", data.source, SOURCES)
