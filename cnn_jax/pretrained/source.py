"""Weights at their source: the Hugging Face Hub, a directory or a file; and their network."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax import errors, limits, models
from cnn_jax.pretrained import convert, heads, preprocessing, record
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import files, hub, released
from cnn_jax.pretrained.formats.released import Released
from cnn_jax.pretrained.network import Network
from cnn_jax.pretrained.preprocessing import Preprocessing
from cnn_jax.pretrained.record import Record
from cnn_jax.runtime import files as runtime_files

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
class Checkpoint:
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
        if self.record:
            record.check_options(self.record, len(self.state_dict))
            _check_built(plain, self.source)
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


def find(source: str | os.PathLike[str], name: str | None) -> Checkpoint:
    """Returns the weights at a source; `load` describes the arguments.

    Raises:
      UserError: there are none, they are damaged, or those of another network.
    """
    path = runtime_files.local(source, "the source")
    if isinstance(source, str) and (repository := hub_repository(source)):
        return _from_hub(source, repository, name)
    if is_directory(path):
        return _from_directory(str(source), path, name)
    if path.suffix not in _SUFFIXES and not os.path.lexists(path) and (hint := hub_hint(source)):
        raise errors.UserError(f"{str(source)!r} is neither a file nor a directory; {hint}")
    return _from_file(path, name)


def hub_hint(source: str | os.PathLike[str]) -> str:
    """Returns a clause that says how 'OWNER/NAME' is written for the Hub; '' for other paths."""
    text = os.fspath(source)
    if "/" not in text or hub.Repository.parse(f"hf-hub:{text}") is None:
        return ""
    return f"for a repository on the Hugging Face Hub, pass 'hf-hub:{text}'"


def is_directory(path: Path) -> bool:
    """Returns True for a directory, and False for a path that is too long."""
    try:
        return path.is_dir()
    except OSError:
        return False


def hub_repository(source: str) -> hub.Repository | None:
    """Returns the repository of the Hub that a source of weights names, or None for a path."""
    path = Path(source)
    if path.suffix in _SUFFIXES or ("/" in source and os.path.lexists(path)):
        return None
    return hub.Repository.parse(source)


def _check_name(given: str | None, found: str, source: str) -> None:
    """Checks that the name that a caller gives is that of a checkpoint's network.

    Raises:
      UserError: the checkpoint is of another network.
    """
    if given is not None and _NAMES_BY_TIMM.get(given, given) != found:
        raise errors.UserError(
            f"{source} has weights of {found!r}, not of {given!r}; remove the name, or load other "
            "weights"
        )


def _from_hub(source: str, repository: hub.Repository, name: str | None) -> Checkpoint:
    network, _, tag = repository.name.partition(".")
    if repository.owner == hub.OWNER:
        # These raise errors before anything is downloaded.
        _check_name(name, _name_from_timm(network), source)
        if not tag:
            raise errors.UserError(
                f"{source!r} is a network, not a checkpoint; pass '{source}.TAG' (see "
                f"https://huggingface.co/{hub.OWNER} for the tags), or './{source}' for a directory"
            )
    return _from_directory(source, hub.fetch(repository), name)


def _from_directory(source: str, directory: Path, given: str | None) -> Checkpoint:
    path = directory / hub.CONFIG
    try:
        config = runtime_files.read_json(path, limits.MAX_JSON_BYTES)
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error
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
            f"{path} has unsupported model_args: {errors.listed(unsupported)}; allowed: "
            f"{', '.join(_IGNORED_MODEL_ARGS)}, global_pool='avg' or 'token'"
        )
    _check_name(given, name, source)
    state_dict = files.read_state_dict(directory / hub.WEIGHTS)
    return Checkpoint(source, name, state_dict, config)


def _unsupported(model_args: Any) -> list[str]:
    """Returns the entries of timm's `model_args` that our networks do not support, as text."""
    given = model_args if isinstance(model_args, Mapping) else {}
    rest = {key: value for key, value in given.items() if key not in _IGNORED_MODEL_ARGS}
    if rest.get("global_pool") in _GLOBAL_POOLS:
        rest.pop("global_pool", None)
    return [f"{key[:99]}={value!r:.99}" for key, value in rest.items() if value is not None]


def _from_file(path: Path, name: str | None) -> Checkpoint:
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
    return Checkpoint(
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


def _check_built(network: Network, source: str) -> None:
    """Checks that a network can be built with the options that a file gives.

    Raises:
      UserError: an option does not exist or has a value that is not allowed.
    """
    try:
        network.shapes(1)
    except errors.UserError:
        raise
    except Exception as error:  # of any layer
        reason = errors.printable(str(error).partition("\n")[0][:200])
        raise errors.UserError(
            f"{source}: its options {dict(network.options)!r:.200} do not make a {network.name}: "
            f"{reason}"
        ) from error
