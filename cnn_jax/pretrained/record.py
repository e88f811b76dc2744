"""Description of a network in the metadata of a safetensors file that `pretrained.save` wrote."""

import dataclasses
import json
import operator
from collections.abc import Iterator, Mapping
from typing import Any

import cnn_jax
from cnn_jax import errors, limits
from cnn_jax.pretrained.network import Network, check_classes, check_input_size
from cnn_jax.pretrained.preprocessing import Preprocessing

_COUNTS_OF_BLOCKS = ("depth", "stage_sizes")  # in names of options
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
        found = Record(
            name=metadata["network"],
            num_classes=int(metadata["num_classes"]),
            input_shape=_shape(json.loads(metadata["input_shape"])),
            options={key: _tuples(v) for key, v in json.loads(metadata["options"]).items()},
            preprocessing=Preprocessing(**_fields(prepare)) if prepare else None,
        )
        _check(found)
    except errors.UserError as error:
        raise errors.UserError(f"its metadata is damaged: {error}") from error
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise errors.UserError(f"its metadata is damaged: {error!r:.200}") from error
    return found


def check_options(record: Record, tensors: int) -> None:
    """Checks the size of the options, before a network is built with them.

    Args:
      record: the description in a file.
      tensors: the number of tensors in the file. A network has at most this number of blocks,
        because each block has a tensor.

    Raises:
      UserError: an option gives more blocks, or is larger than `limits.MAX_OPTION`.
    """
    for key, value in record.options.items():
        numbers = list(_numbers(value))
        if any(word in key for word in _COUNTS_OF_BLOCKS) and sum(numbers) > tensors:
            raise errors.UserError(
                f"its metadata is damaged: {key[:99]!r} {value!r:.99} gives more blocks than the "
                f"file has tensors, {tensors}"
            )
        if not all(abs(number) <= limits.MAX_OPTION for number in numbers):
            raise errors.UserError(
                f"its metadata is damaged: {key[:99]!r} {value!r:.99} is larger than the limit "
                f"MAX_OPTION of cnn_jax/limits.py, {limits.MAX_OPTION:,}"
            )


def _numbers(value: Any) -> Iterator[float]:
    """Yields the numbers in an option."""
    if isinstance(value, tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, (int, float)):
        yield value


def _check(record: Record) -> None:
    """Checks that the parts of a description agree, and that its sizes are within the limits.

    Raises:
      UserError: the parts disagree, or a size is above its limit.
    """
    check_classes(record.num_classes)
    check_input_size(*record.input_shape)
    prepare, channels = record.preprocessing, record.input_shape[-1]
    if prepare and record.num_classes and len(prepare.class_names) != record.num_classes:
        raise errors.UserError(
            f"it has {len(prepare.class_names)} class names for {record.num_classes} classes"
        )
    if prepare and len(prepare.mean) != channels:
        raise errors.UserError(
            f"its mean has {len(prepare.mean)} values for images of {channels} channels"
        )


def _shape(given: Any) -> tuple[int, int, int]:
    height, width, channels = map(operator.index, given)
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
