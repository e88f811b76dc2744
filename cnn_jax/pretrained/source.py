"""Weights at their source: the Hugging Face Hub, a directory or a file; and their network."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax import errors, limits, models
from cnn_jax.pretrained import convert, heads, preprocessing, record
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.fitting import adapt, naming
from cnn_jax.pretrained.formats import files, hub, kinds, released, states
from cnn_jax.pretrained.formats.files import Content
from cnn_jax.pretrained.formats.released import Released
from cnn_jax.pretrained.network import Network
from cnn_jax.pretrained.preprocessing import Preprocessing
from cnn_jax.pretrained.record import Record
from cnn_jax.runtime import files as runtime_files

# Our names of networks, by timm's name, where they differ.
NAMES_BY_TIMM: Mapping[str, str] = MappingProxyType(
    {"legacy_senet154": "senet154", "legacy_xception": "xception"}
)
# Names that mean another network in timm. Its senet154 has a different pooling after the stem.
_DIFFERENT_IN_TIMM = ("senet154",)
# Entries of timm's `model_args` without effect on evaluation, or visible in the weights' shapes.
_IGNORED_MODEL_ARGS = ("in_chans", "num_classes", "img_size", "drop_rate", "drop_path_rate")
_GLOBAL_POOLS = ("avg", "token", "", None)  # supported values of `model_args.global_pool`
_CHOICES = ("state", "prefix")  # that can follow the path of a file
# Endings of the names of weights files, those that are refused included.
_SUFFIXES = (
    *(files.SAFETENSORS, ".pth", ".pt", ".ckpt", ".bin", ".tar", ".pkl"),
    *(".pt2", ".onnx", ".h5", ".keras", ".npz", ".msgpack"),
)


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
      notes: a sentence for each choice between parts of the file, and for each change.
    """

    source: str
    name: str
    state_dict: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None = None
    release: Released | None = None
    record: Record | None = None
    notes: tuple[str, ...] = ()

    def fitted(
        self,
        input_shape: tuple[int, int, int] | None,
        overrides: Mapping[str, Any],
        prefix: str = "",
    ) -> tuple["Checkpoint", Network]:
        """Returns the weights under the network's names, and the network for them.

        Args:
          input_shape: height, width and channels of the images. None: the shape in the metadata, or
            else the published shape.
          overrides: fields of the network. It gets the options that the weights need, too.
          prefix: the prefix to remove from the names; '' for the automatic choice.

        Raises:
          UserError: the metadata is damaged, or no name has the prefix.
        """
        recorded = self.record.options if self.record else {}
        stated = self.record.input_shape if self.record else adapt.stated_shape(self.config)
        first = input_shape or (stated if self.record else None)
        plain = Network.of(self.name, first, {**recorded, **overrides})
        if self.record:
            record.check_options(self.record, len(self.state_dict))
            _check_built(plain, self.source)
        weights, notes = naming.rename(plain, self.state_dict, prefix)
        options = {**convert.options(plain, weights), **plain.options}
        network = heads.detect_auxiliary(dataclasses.replace(plain, options=options), weights)
        fitting = adapt.to_images(network, weights, stated, asked=input_shape is not None)
        notes = (*self.notes, *notes, *fitting.notes)
        found = dataclasses.replace(self, state_dict=fitting.state_dict, notes=notes)
        return found, fitting.network

    def preprocessing(self, network: Network, num_classes: int, *, asked: bool) -> Preprocessing:
        """Returns the preprocessing of the source, or else the network's usual one.

        Args:
          network: the network, with the shape of its images.
          num_classes: of the checkpoint.
          asked: True if the caller chose that shape, so that the sizes must be changed to it.

        Raises:
          UserError: the config has a value that is not supported.
        """
        if self.record and self.record.preprocessing:
            found = self.record.preprocessing
            return found.adapted(network.input_shape) if asked else found
        if self.config is None:
            return self._usual(network, num_classes, asked=asked)
        try:
            return preprocessing.from_timm(self.config, num_classes, network.input_shape)
        except errors.UserError as error:
            raise errors.UserError(f"{hub.CONFIG} of {self.source}: {error}") from error

    def _usual(self, network: Network, num_classes: int, *, asked: bool) -> Preprocessing:
        """Returns the published preprocessing of the network.

        It is that of the released file if the weights are one, else torchvision's or timm's, by
        the names of the variables.
        """
        shape = network.input_shape
        table = convert.best_table(network.name, network.shapes(1), self.state_dict)
        # Releases can have another size than the one that the network was published for.
        given = (
            asked or self.name not in tables.published() or shape != models.input_shape(self.name)
        )
        return preprocessing.for_network(
            self.name,
            num_classes,
            shape if given else None,
            release=self.release,
            torchvision=tables.of_torchvision(self.name, table),
        )


def find(source: str | os.PathLike[str], name: str | None, state: str = "") -> Checkpoint:
    """Returns the weights at a source; `load` describes the arguments.

    Raises:
      UserError: there are none, they are damaged, or those of another network.
    """
    path = runtime_files.local(source, "the source")
    if isinstance(source, str) and (repository := hub_repository(source)):
        return _from_hub(source, repository, name, state)
    if is_directory(path):
        return _from_directory(str(source), path, name, state)
    if path.suffix not in _SUFFIXES and not os.path.lexists(path) and (hint := hub_hint(source)):
        raise errors.UserError(f"{str(source)!r} is neither a file nor a directory; {hint}")
    return _from_file(path, name, state)


def split(source: str | os.PathLike[str]) -> tuple[str | os.PathLike[str], dict[str, str]]:
    """Splits choices from the end of a source, as in 'FILE#state=model_ema&prefix=module.'.

    The form is that of the fragment of an address, as pip has it: '#egg=NAME&subdirectory=FOLDER'.

    Returns:
      The source without the choices, and the choices by name. The source stays whole if there is a
      file of this name.

    Raises:
      UserError: a choice is unknown or has no value.
    """
    path, mark, text = os.fspath(source).partition("#")
    if not mark or os.path.lexists(os.fspath(source)):
        return source, {}
    choices = {}
    for part in text.split("&"):
        key, _, value = part.partition("=")
        if key not in _CHOICES or not value:
            raise errors.UserError(
                f"{part!r} after '#' in {str(source)!r} is unknown; allowed: state=NAME for an "
                "entry of a checkpoint, such as model_ema, and prefix=TEXT for a prefix of names"
            )
        choices[key] = value
    return (path if isinstance(source, str) else Path(path)), choices


def is_file(source: str | os.PathLike[str]) -> bool:
    """Returns True if a source is a weights file, by the ending of its name."""
    return Path(os.fspath(source).partition("#")[0]).suffix in _SUFFIXES


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
    """Returns the repository of the Hub that a source of weights names, or None for a path.

    An existing file or directory is preferred to a name on the Hub.
    """
    path = Path(source)
    if path.suffix in _SUFFIXES or os.path.lexists(path):
        return None
    return hub.Repository.parse(source)


def _check_name(given: str | None, found: str, source: str) -> None:
    """Checks that the name that a caller gives is that of a checkpoint's network.

    Raises:
      UserError: the checkpoint is of another network.
    """
    if given is not None and NAMES_BY_TIMM.get(given, given) != found:
        raise errors.UserError(
            f"{source} has weights of {found!r}, not of {given!r}; remove the name, or load other "
            "weights"
        )


def _from_hub(source: str, repository: hub.Repository, name: str | None, state: str) -> Checkpoint:
    network, _, tag = repository.name.partition(".")
    if repository.owner == hub.OWNER:
        # These raise errors before anything is downloaded.
        _check_name(name, _name_from_timm(network), source)
        if not tag:
            raise errors.UserError(
                f"{source!r} is a network, not a checkpoint; pass '{source}.TAG' (see "
                f"https://huggingface.co/{hub.OWNER} for the tags), or './{source}' for a directory"
            )
    return _from_directory(source, hub.fetch(repository), name, state)


def _from_directory(source: str, directory: Path, given: str | None, state: str) -> Checkpoint:
    path = directory / hub.CONFIG
    kind = kinds.of_directory(directory)
    is_kind = f"; {directory} is {kind}" if kind else ""
    try:
        config = runtime_files.read_json(path, limits.MAX_JSON_BYTES)
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror or error}"
        raise errors.UserError(f"{reason}{is_kind}") from error
    if config.get("library") == "cnn_jax":  # written by `export`, for a network that timm lacks
        return _from_file(directory / hub.WEIGHTS, given, state)
    match config:
        case {"architecture": str(network)}:
            name = _name_from_timm(network)
            unsupported = _unsupported(config.get("model_args"))
        case _:
            raise errors.UserError(
                f"{path} has no entry 'architecture' with the name of a network, as timm's configs "
                f"have{is_kind}"
            )
    if unsupported:
        raise errors.UserError(
            f"{path} has unsupported model_args: {errors.listed(unsupported)}; allowed: "
            f"{', '.join(_IGNORED_MODEL_ARGS)}, global_pool='avg' or 'token'"
        )
    _check_name(given, name, source)
    content = files.read(directory / hub.WEIGHTS, state)
    return Checkpoint(source, name, content.arrays, config)


def _unsupported(model_args: Any) -> list[str]:
    """Returns the entries of timm's `model_args` that our networks do not support, as text."""
    given = model_args if isinstance(model_args, Mapping) else {}
    rest = {key: value for key, value in given.items() if key not in _IGNORED_MODEL_ARGS}
    if rest.get("global_pool") in _GLOBAL_POOLS:
        rest.pop("global_pool", None)
    return [f"{key[:99]}={value!r:.99}" for key, value in rest.items() if value is not None]


def _from_file(path: Path, name: str | None, state: str) -> Checkpoint:
    if name is not None:
        _our_name(name)  # Raises for an unknown network, before the file is read.
    release = released.find(path)
    metadata = files.read_metadata(path)
    try:
        description = record.from_metadata(metadata)
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
    content = files.read(path, state)
    return Checkpoint(
        str(path),
        _our_name(network),
        content.arrays,
        release=release,
        record=description,
        notes=tuple(_choices_of(content, state)),
    )


def _choices_of(content: Content, state: str) -> Iterator[str]:
    """Yields a sentence for each choice between parts of a file that the caller did not make."""
    if content.others and not state:
        taken = repr(content.key[:99]) if content.key else "the tensors outside its dictionaries"
        others = errors.listed([repr(other[:99]) for other in content.others], 3)
        other = content.others[0][:99]
        yield (
            f"took {taken}, not {others}; for another, pass state={other!r}, or put "
            f"'#state={other}' at the end of the path"
        )
    elif content.key not in ("", *states.USUAL) and not state:
        yield f"took {content.key[:99]!r}"
    if content.left_out:
        names = errors.listed([repr(name[:99]) for name in content.left_out], 3)
        yield f"left out entries that are no weights: {names}"


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
    name = NAMES_BY_TIMM.get(network, network)
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
        reason = errors.first_line(error, 200)
        raise errors.UserError(
            f"{source}: its options {dict(network.options)!r:.200} do not make a {network.name}: "
            f"{reason}"
        ) from error
