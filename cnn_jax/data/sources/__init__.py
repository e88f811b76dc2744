"""Sources of labelled images, chosen by `data.source`, or given by the user.

`open_source` imports the module of the chosen source only: scikit-learn and TFDS are slow to
import.
"""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax import errors
from cnn_jax.runtime import files, imports

if TYPE_CHECKING:
    from cnn_jax import contracts, plan

SOURCES = ("auto", "digits", "fake", "folder", "idx", "npz", "shards", "tfds")


def check(data: "plan.Data") -> None:
    """Checks the keys of the source. It reads no file; for 'auto', it lists `data.directory`.

    Raises:
      UserError: an unknown source, or a name or a directory that the source does not accept.
    """
    if data.source in SOURCES:  # A user's own source may read addresses.
        files.local(data.directory, "data.directory")
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
        case _ if imports.is_reference(data.source):
            _own(data.source)
        case _ if not is_given(data):
            raise _unknown(data)


def resolve(data: "plan.Data") -> "plan.Data":
    """Replaces the source 'auto' by the source that reads `data.directory`.

    Raises:
      UserError: no source reads what is there.
    """
    if data.source != "auto":
        return data
    from cnn_jax.data.sources import detect

    return dataclasses.replace(data, source=detect.detect(data.directory, data.name))


def is_given(data: "plan.Data") -> bool:
    """Returns True if the plan is that of a run with a source object; see `plan.GIVEN`."""
    from cnn_jax import plan  # `plan` imports `data.images`.

    return data.source == plan.GIVEN


def title(data: "plan.Data") -> str:
    """Returns the name of a data set for messages and plots, such as 'idx fashion_mnist'."""
    if is_given(data):
        return "given source"
    has_name = data.source in ("idx", "tfds") and data.name
    if data.source in ("folder", "npz", "shards"):
        return f"{data.source} {Path(data.directory).name}"
    return f"{data.source} {data.name}" if has_name else data.source


def open_source(data: "plan.Data") -> "contracts.Source":
    """Returns the source of a plan; 'auto' is replaced by the source that reads the directory.

    Raises:
      UserError: an unknown source, a data set that is missing, damaged or cannot be prepared, or a
        function of the user's that cannot be imported or returns no source.
    """
    return keep_classes(_open(resolve(data)), data)


def check_source(source: Any, title: str = "the source") -> None:
    """Checks that an object is a source; see `contracts.Source`. Reads the first example of splits.

    Args:
      source: the object.
      title: its name for messages.

    Raises:
      UserError: it is not; the message names the attribute and what it must be.
    """
    from cnn_jax.data.sources import checks

    checks.check(source, title)


def keep_classes(source: "contracts.Source", data: "plan.Data") -> "contracts.Source":
    """Returns a source with the classes of `data.classes` only, or the source if it is empty.

    Raises:
      UserError: an unknown class name, or a name given twice.
    """
    if not data.classes:
        return source
    from cnn_jax.data.sources import classes

    try:
        (names,) = csv.reader([data.classes], skipinitialspace=True)
    except csv.Error as error:
        raise errors.UserError(
            f"data.classes cannot be read ({error}); write names in one line, separated by commas, "
            "and those with a comma in double quotation marks"
        ) from error
    return classes.keep(source, [name.strip() for name in names])


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
            from cnn_jax.data.sources import emnist, tfds

            return emnist.corrected(tfds.source(data.name, data.directory))
        case _ if imports.is_reference(data.source):
            source: contracts.Source = _own(data.source)(data)
            check_source(source, f"the result of data.source {data.source!r}")
            return source
    if is_given(data):
        raise errors.UserError(
            f"data.source is {data.source!r}: the run was trained with a source object, which "
            "config.json cannot name. Pass it again: train.run(..., source=...) to train, "
            "evaluators.evaluate(predictor, source, split) to evaluate; or name a source with "
            "--config.data.source, such as npz or my_module:make_source"
        )
    raise _unknown(data)


def _own(reference: str) -> Callable[["plan.Data"], Any]:
    """Imports a function of the user's that makes a source.

    Raises:
      UserError: it cannot be imported or called.
    """
    found = imports.load(reference, "data.source")
    if not callable(found):
        raise errors.UserError(
            f"data.source {reference!r} is {found!r}, which cannot be called; name a function "
            "that takes the section plan.data and returns a source"
        )
    function: Callable[[plan.Data], Any] = found
    return function


def _unknown(data: "plan.Data") -> errors.UserError:
    return errors.unknown("data.source", data.source, (*SOURCES, "module:attribute"))
