"""Sources of labelled images, chosen by `data.source`.

`open_source` imports the module of the chosen source only: scikit-learn and TFDS are slow to
import.
"""

from typing import TYPE_CHECKING

from cnn_jax import errors

if TYPE_CHECKING:
    from cnn_jax import contracts, plan

SOURCES = ("digits", "fake", "idx", "tfds")


def check(data: "plan.Data") -> None:
    """Checks the keys of the source, without reading files.

    Raises:
      UserError: an unknown source, or a name or a directory that the source does not accept.
    """
    match data.source:
        case "digits" | "fake":
            return
        case "idx":
            from cnn_jax.data.sources import idx

            idx.check(data.name, data.directory)
        case "tfds":
            from cnn_jax.data.sources import tfds

            tfds.check(data.name)
        case _:
            raise errors.unknown("data.source", data.source, SOURCES)


def title(data: "plan.Data") -> str:
    """Returns the name of a data set for messages and plots, such as 'idx fashion_mnist'."""
    has_name = data.source in ("idx", "tfds") and data.name
    return f"{data.source} {data.name}" if has_name else data.source


def open_source(data: "plan.Data") -> "contracts.Source":
    """Returns the source of a plan.

    Raises:
      UserError: an unknown source, or a data set that is missing, damaged or cannot be prepared.
    """
    match data.source:
        case "digits":
            from cnn_jax.data.sources import digits

            return digits.source()
        case "fake":
            from cnn_jax.data.sources import fake

            return fake.source(*data.input_shape)
        case "idx":
            from cnn_jax.data.sources import idx

            return idx.source(data.name, data.directory)
        case "tfds":
            from cnn_jax.data.sources import tfds

            return tfds.source(data.name, data.directory)
    raise errors.unknown("data.source", data.source, SOURCES)
