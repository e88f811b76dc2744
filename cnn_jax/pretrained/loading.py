"""Networks with published weights and the preprocessing that belongs to them."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from flax import linen as nn

from cnn_jax import errors, models
from cnn_jax.pretrained import convert, heads, preprocessing, record
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import files, hub, released
from cnn_jax.pretrained.formats.released import Released
from cnn_jax.pretrained.network import Network
from cnn_jax.pretrained.preprocessing import Preprocessing
from cnn_jax.pretrained.record import Record

# Our names of networks, by timm's name, where they differ.
_NAMES_BY_TIMM: Mapping[str, str] = MappingProxyType(
    {"legacy_senet154": "senet154", "legacy_xception": "xception"}
)
# Names that mean another network in timm. Its senet154 has a different pooling after the stem.
_DIFFERENT_IN_TIMM = ("senet154",)
# Entries of timm's `model_args` without effect on evaluation, or visible in the weights' shapes.
_IGNORED_MODEL_ARGS = ("in_chans", "num_classes", "img_size", "drop_rate", "drop_path_rate")
_GLOBAL_POOLS = ("avg", "token", "", None)  # supported values of `model_args.global_pool`
_SUFFIXES = (files.SAFETENSORS, ".pth", ".pt")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Network with published weights.

        logits = model.apply(variables, preprocessing(image)[None], train=False)

    Attributes:
      model: the network.
      variables: its parameters and running statistics, as NumPy arrays that own their data.
      preprocessing: converts an image to an input, and names the classes.
      name: the network's name in `models`.
      options: the options of `models.create`, those of the call and those that the weights need,
        such as another epsilon.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    name: str
    options: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """Weights as found at a source, before conversion.

    Attributes:
      source: the argument of `load`, for messages.
      name: our name of the network.
      state_dict: name to array, in torch's layout.
      config: the content of timm's config.json, if the source has one.
      release: the entry of `released.FILES`, if the source is a released file.
      record: the description in the metadata, if `pretrained.save` wrote the file.
    """

    source: str
    name: str
    state_dict: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None = None
    release: Released | None = None
    record: Record | None = None

    def network(
        self, input_shape: tuple[int, int, int] | None, overrides: Mapping[str, Any]
    ) -> Network:
        """Returns the network with the options that its weights need, and with `overrides`."""
        recorded = self.record.options if self.record else {}
        if input_shape is None and self.record:
            input_shape = self.record.input_shape
        plain = Network.of(self.name, input_shape, {**recorded, **overrides})
        needed = convert.options(plain, self.state_dict)
        return heads.detect_auxiliary(
            dataclasses.replace(plain, options={**needed, **plain.options}), self.state_dict
        )

    def preprocessing(self, network: Network, num_classes: int) -> Preprocessing:
        """Returns the preprocessing of the source, or else the network's usual one."""
        if self.record and self.record.preprocessing:
            return self.record.preprocessing
        if self.config is None:
            usual = preprocessing.for_network(self.name, num_classes, network.input_shape)
            return dataclasses.replace(
                usual, **(self.release.preprocessing if self.release else {})
            )
        try:
            return preprocessing.from_timm(self.config, num_classes)
        except errors.UserError as error:
            raise errors.UserError(f"{hub.CONFIG} of {self.source}: {error}") from error


def load(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    num_classes: int | None = None,
    new_head: bool | Literal["auto"] = False,
    seed: int = 0,
    input_shape: tuple[int, int, int] | None = None,
    **overrides: Any,
) -> Pretrained:
    """Loads a network with published weights, from the Hugging Face Hub or from local files.

    Args:
      source: a timm checkpoint `NETWORK.TAG` on the Hub, such as 'resnet50.a1_in1k'; the path of a
        .safetensors, .pth or .pt file; or the path of a directory with config.json and
        model.safetensors, as on the Hub. A string is a path if it contains a slash or ends in one
        of these suffixes.
      name: the network, required for most files. Files of `pretrained.save` name it in their
        metadata, checkpoints and directories in config.json; another name is an error then. It is
        also known for files with the name under which torchvision released them.
      num_classes: the number of classes of the network. By default the checkpoint's number. With
        0, the network has no head and returns pooled features.
      new_head: whether to initialise the head, that is, the layers whose shape depends on the
        number of classes. False: a head for another number of classes is an error. True: the
        checkpoint's head is ignored and may be missing. 'auto': the head is new if the checkpoint
        has none for this number of classes.
      seed: of the new head's parameters.
      input_shape: height, width and channels of the images, on which some shapes depend. By default
        those of the checkpoint's metadata, else those that the network was published for.
      **overrides: fields of the network, and `dtype`, as in `models.create`.

    Raises:
      UserError: the checkpoint does not exist, the Hub cannot be reached, or a file is damaged.
        Also if the weights do not fit, the head has another number of classes, or the
        preprocessing is not supported.
    """
    if not isinstance(new_head, bool) and new_head != "auto":
        raise errors.UserError(f"new_head must be False, True or 'auto', got {new_head!r}")
    found = _find(source, name)
    network = found.network(input_shape, overrides)
    available = _available(found, network, num_classes)
    wanted = available if num_classes is None else num_classes
    prepare = found.preprocessing(network, available)
    if num_classes == 0 and new_head is not True:
        variables = heads.without_head(network, found.state_dict)
        prepare = dataclasses.replace(prepare, class_names=())
    elif new_head is True or (new_head == "auto" and available != wanted):
        _check_count(wanted)
        variables = heads.with_new_head(network, found.state_dict, wanted, seed=seed)
        numbers = tuple(map(str, range(wanted)))
        prepare = dataclasses.replace(prepare, class_names=numbers)
    else:
        _check_head(found, network, available, wanted)
        variables = convert.to_variables(network, found.state_dict, wanted)
    options = {key: value for key, value in network.options.items() if key != "dtype"}
    return Pretrained(network.create(wanted), variables, prepare, found.name, options)


def _available(found: _Checkpoint, network: Network, given: int | None) -> int:
    """Returns the number of classes of the checkpoint; 0 if it has no head.

    Raises:
      UserError: the variables do not tell it, and neither do the metadata and the caller.
    """
    available = heads.num_classes(network, found.state_dict)
    if available is None:
        available = found.record.num_classes if found.record and given is None else given
    if available is None:
        raise errors.UserError(
            f"no variable of {found.name} depends on the number of classes; pass num_classes=N"
        )
    return available


def _check_count(num_classes: int) -> None:
    """Checks that a new head has classes.

    Raises:
      UserError: it has none.
    """
    if num_classes == 0:
        raise errors.UserError(
            "a new head needs at least one class; pass num_classes=N, or num_classes=0 without "
            "new_head for a network without head"
        )


def _check_head(found: _Checkpoint, network: Network, available: int, wanted: int) -> None:
    """Checks that the checkpoint has a head for `wanted` classes."""
    if available == wanted != 0:
        return
    # If other weights do not fit either, this raises the message that lists them.
    heads.with_zero_head(network, found.state_dict, max(wanted, 1))
    has = f"has a head for {available} classes, not {wanted}" if available else "has no head"
    raise errors.UserError(
        f"{found.source} {has}; pass new_head=True and num_classes=N to initialise a new head, or "
        "num_classes=0 for a network without head"
    )


def _find(source: str | os.PathLike[str], name: str | None) -> _Checkpoint:
    path = Path(source)
    if isinstance(source, str) and "/" not in source and path.suffix not in _SUFFIXES:
        return _from_hub(source, name)
    return _from_directory(str(source), path, name) if path.is_dir() else _from_file(path, name)


def _check_name(given: str | None, found: str, source: str) -> None:
    """Checks that the name that a caller gives is that of a checkpoint's network.

    Raises:
      UserError: it is another network.
    """
    if given is not None and _NAMES_BY_TIMM.get(given, given) != found:
        raise errors.UserError(
            f"{source} has weights of {found!r}, not of {given!r}; remove the name, or load other "
            "weights"
        )


def _from_hub(source: str, name: str | None) -> _Checkpoint:
    network, _, tag = source.partition(".")
    # These raise errors before anything is downloaded.
    _check_name(name, _name_from_timm(network), source)
    if not tag:
        raise errors.UserError(
            f"{source!r} is a network, not a checkpoint; pass '{network}.TAG' (see "
            f"https://huggingface.co/{hub.OWNER} for the tags), or './{source}' for a directory"
        )
    return _from_directory(source, hub.fetch(source), name)


def _from_directory(source: str, directory: Path, given: str | None) -> _Checkpoint:
    path = directory / hub.CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (RecursionError, ValueError) as error:
        raise errors.UserError(f"{path} is not JSON: {error}") from error
    match config:
        case {"architecture": str(network)}:
            name = _name_from_timm(network)
            unsupported = _unsupported(config.get("model_args"))
        case _:
            raise errors.UserError(
                f"{path} has no entry 'architecture' with the name of a network, as timm's configs "
                "have"
            )
    if unsupported:
        raise errors.UserError(
            f"{path} has unsupported model_args: {', '.join(unsupported)}; allowed: "
            f"{', '.join(_IGNORED_MODEL_ARGS)}, global_pool='avg' or 'token'"
        )
    _check_name(given, name, source)
    state_dict = files.read_state_dict(directory / hub.WEIGHTS)
    return _Checkpoint(source, name, state_dict, config)


def _unsupported(model_args: Any) -> list[str]:
    """Returns the entries of timm's `model_args` that our networks do not support, as text."""
    given = model_args if isinstance(model_args, Mapping) else {}
    rest = {key: value for key, value in given.items() if key not in _IGNORED_MODEL_ARGS}
    if rest.get("global_pool") in _GLOBAL_POOLS:
        rest.pop("global_pool", None)
    return [f"{key}={value!r}" for key, value in rest.items() if value is not None]


def _from_file(path: Path, name: str | None) -> _Checkpoint:
    if name is not None:
        _our_name(name)  # Raises for an unknown network, before the file is read.
    release = released.find(path)
    try:
        description = record.from_metadata(files.read_metadata(path))
    except errors.UserError as error:
        raise errors.UserError(f"{path}: {error}") from error
    if description:
        _check_recorded(description, name, path)
        name = description.name
    network = name or (release and release.network)
    if not network:
        raise errors.UserError(
            f"{path} is not a known release, so its network is unknown; pass the network's name "
            "as name= or --model="
        )
    return _Checkpoint(
        str(path),
        _our_name(network),
        files.read_state_dict(path),
        release=release,
        record=description,
    )


def _check_recorded(description: Record, name: str | None, path: Path) -> None:
    """Checks the network in the metadata of a file.

    Raises:
      UserError: `name` is another network, or the network is a class that this call would import
        because the file says so.
    """
    _check_name(name, description.name, str(path))
    if name is None and ":" in description.name:
        raise errors.UserError(
            f"{path} has weights of {description.name!r}, a network outside cnn_jax, which is not "
            f"imported unless you name it; pass name={description.name!r}"
        )


def _name_from_timm(architecture: str) -> str:
    """Returns our name of timm's network `architecture`.

    Raises:
      UserError: there is no such network with published weights.
    """
    if architecture in _DIFFERENT_IN_TIMM:
        raise errors.UserError(
            f"timm's {architecture!r} is not the network of that name here; use a checkpoint of "
            f"'legacy_{architecture}'"
        )
    name = _our_name(architecture)
    tables.for_network(name)  # Raises for a network without a rename table.
    return name


def _our_name(network: str) -> str:
    """Returns our name of a network, given our name or timm's.

    Raises:
      UserError: there is no such network.
    """
    name = _NAMES_BY_TIMM.get(network, network)
    models.options(name)  # Raises for an unknown network.
    return name
