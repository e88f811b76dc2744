"""Description of a network in the metadata of a safetensors file that `pretrained.save` wrote."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import cnn_jax
from cnn_jax import errors
from cnn_jax.pretrained.network import Network
from cnn_jax.pretrained.preprocessing import Preprocessing

_VERSION = "cnn_jax"  # the key that marks our files; its value is the version that wrote the file


@dataclasses.dataclass(frozen=True)
class Record:
    """Network of a weights file.

    Attributes:
      name: the network.
      num_classes: the number of logits; 0 for a network without head.
      input_shape: height, width and channels of the images that the variables have the shapes for.
      options: fields of the network that differ from the variant's.
      preprocessing: the preprocessing of its images; None for the network's usual one.
    """

    name: str
    num_classes: int
    input_shape: tuple[int, int, int]
    options: Mapping[str, Any]
    preprocessing: Preprocessing | None = None

    @property
    def network(self) -> Network:
        """The network without its number of classes."""
        return Network(self.name, self.input_shape, self.options)


def to_metadata(record: Record, library: str) -> dict[str, str]:
    """Returns the metadata of a safetensors file, all values as text.

    Args:
      record: the description.
      library: value of 'format', by which other readers recognise the layout: 'pt' or 'flax'.

    Raises:
      UserError: an option cannot be stored.
    """
    prepare = record.preprocessing
    for key, value in record.options.items():
        if not _storable(value):
            raise errors.UserError(
                f"option {key}={value!r} of {record.name} cannot be stored in a file; allowed are "
                "numbers, strings, booleans, and tuples of them"
            )
    return {
        "format": library,
        "network": record.name,
        "num_classes": str(record.num_classes),
        "input_shape": json.dumps(record.input_shape),
        "options": json.dumps(dict(record.options)),
        **({"preprocessing": json.dumps(dataclasses.asdict(prepare))} if prepare else {}),
        _VERSION: cnn_jax.__version__,
    }


def from_metadata(metadata: Mapping[str, str]) -> Record | None:
    """Returns the description in a file's metadata, or None if `pretrained.save` did not write it.

    Raises:
      UserError: the metadata is damaged.
    """
    if _VERSION not in metadata:
        return None
    try:
        prepare = metadata.get("preprocessing")
        return Record(
            name=metadata["network"],
            num_classes=int(metadata["num_classes"]),
            input_shape=_shape(json.loads(metadata["input_shape"])),
            options={key: _tuples(v) for key, v in json.loads(metadata["options"]).items()},
            preprocessing=Preprocessing(**_fields(prepare)) if prepare else None,
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise errors.UserError(f"its metadata is damaged: {error!r}") from error


def _shape(given: Any) -> tuple[int, int, int]:
    height, width, channels = map(int, given)
    return height, width, channels


def _fields(text: str) -> dict[str, Any]:
    return {key: _tuples(value) for key, value in json.loads(text).items()}


def _storable(value: Any) -> bool:
    """Returns True for values that JSON returns unchanged, but for lists in place of tuples."""
    if type(value) in (list, tuple):  # Named tuples would become plain ones.
        return all(map(_storable, value))
    return value is None or type(value) in (bool, int, float, str)


def _tuples(value: Any) -> Any:
    """Returns a value of JSON with tuples in place of lists, as modules have them."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
