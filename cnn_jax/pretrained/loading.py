"""Networks with published weights and the preprocessing that belongs to them."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from flax import linen as nn

from cnn_jax import errors, models
from cnn_jax.pretrained import convert, heads, preprocessing
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import hub, released
from cnn_jax.pretrained.formats.files import read_state_dict
from cnn_jax.pretrained.formats.released import Released
from cnn_jax.pretrained.preprocessing import Preprocessing

# Our names of networks, by timm's name, where they differ.
_NAMES_BY_TIMM: Mapping[str, str] = MappingProxyType(
    {"legacy_senet154": "senet154", "legacy_xception": "xception"}
)
# Names that mean another network in timm. Its senet154 has a different pooling after the stem.
_DIFFERENT_IN_TIMM = ("senet154",)
# Entries of timm's `model_args` without effect on evaluation, or visible in the weights' shapes.
_IGNORED_MODEL_ARGS = ("in_chans", "num_classes", "img_size", "drop_rate", "drop_path_rate")
_GLOBAL_POOLS = ("avg", "token", "", None)  # supported values of `model_args.global_pool`
_SUFFIXES = (".safetensors", ".pth", ".pt")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """Network with published weights.

        logits = model.apply(variables, preprocessing(image)[None], train=False)

    Attributes:
      model: the network.
      variables: its parameters and running statistics, as NumPy arrays.
      preprocessing: converts an image to an input, and names the classes.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """Weights as found at a source, before conversion.

    Attributes:
      source: the argument of `load`, for messages.
      name: our name of the network.
      state_dict: name to array, in torch's layout.
      config: the content of timm's config.json, if the source has one.
      release: the entry of `released.FILES`, if the source is a released file.
    """

    source: str
    name: str
    state_dict: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None = None
    release: Released | None = None

    def preprocessing(self, num_classes: int) -> Preprocessing:
        if self.config is None:
            usual = preprocessing.for_network(self.name, num_classes)
            return dataclasses.replace(
                usual, **(self.release.preprocessing if self.release else {})
            )
        try:
            return preprocessing.from_timm(self.config, num_classes)
        except errors.UserError as error:
            raise errors.UserError(f"{hub.CONFIG} of {self.source}: {error}") from error


def load(
    source: str | Path,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    new_head: bool = False,
    seed: int = 0,
    **overrides: Any,
) -> Pretrained:
    """Loads a network with published weights, from the Hugging Face Hub or from local files.

    Args:
      source: a timm checkpoint `NETWORK.TAG` on the Hub, such as 'resnet50.a1_in1k'; the path of a
        .safetensors, .pth or .pt file; or the path of a directory with config.json and
        model.safetensors, as on the Hub. A string is a path if it contains a slash or ends in one
        of these suffixes.
      name: the network, required for a file. Directories name it in config.json. It is also known
        for files with the name under which torchvision released them.
      num_classes: with `new_head`, the classes of the new head; otherwise the number that the
        checkpoint must have. By default the checkpoint's number.
      new_head: whether to initialise the head, that is, the layers whose shape depends on the
        number of classes. The checkpoint's head is then ignored and may be missing.
      seed: of the new head's parameters.
      **overrides: fields of the network, and `dtype`, as in `models.create`.

    Raises:
      ValueError: the checkpoint does not exist, the Hub cannot be reached, or a file is damaged.
        Also if the weights do not fit, the head has another number of classes, or the
        preprocessing is not supported.
    """
    found = _find(source, name)
    overrides = {**convert.options(found.name, found.state_dict), **overrides}
    overrides = heads.detect_auxiliary(found.name, found.state_dict, **overrides)
    available = heads.num_classes(found.name, found.state_dict, **overrides)
    wanted = available if num_classes is None else num_classes
    prepare = found.preprocessing(available)
    if new_head:
        variables = heads.with_new_head(
            found.name, found.state_dict, num_classes=wanted, seed=seed, **overrides
        )
        numbers = tuple(map(str, range(wanted)))
        prepare = dataclasses.replace(prepare, class_names=numbers)
    else:
        _check_head(found, available, wanted, overrides)
        variables = convert.from_torch(
            found.name, found.state_dict, num_classes=wanted, **overrides
        )
    model = models.create(found.name, num_classes=wanted, **overrides)
    return Pretrained(model, variables, prepare)


def _check_head(
    found: _Checkpoint, available: int, wanted: int, overrides: Mapping[str, Any]
) -> None:
    """Checks that the checkpoint has a head for `wanted` classes."""
    if available == wanted != 0:
        return
    # If other weights do not fit either, this raises the message that lists them.
    heads.with_zero_head(found.name, found.state_dict, num_classes=max(wanted, 1), **overrides)
    has = f"has a head for {available} classes, not {wanted}" if available else "has no head"
    raise errors.UserError(
        f"{found.source} {has}; pass new_head=True and num_classes=N to initialise a new head"
    )


def _find(source: str | Path, name: str | None) -> _Checkpoint:
    path = Path(source)
    remote = isinstance(source, str) and "/" not in source and path.suffix not in _SUFFIXES
    if name is not None and (remote or path.is_dir()):
        raise errors.UserError(
            f"name={name!r} is only allowed for a file, got {source}, which names its network "
            "itself; remove name"
        )
    if remote:
        return _from_hub(str(source))
    return _from_directory(str(source), path) if path.is_dir() else _from_file(path, name)


def _from_hub(source: str) -> _Checkpoint:
    network, _, tag = source.partition(".")
    _name_from_timm(network)  # Raises for an unknown network, before anything is downloaded.
    if not tag:
        raise errors.UserError(
            f"{source!r} is a network, not a checkpoint; pass '{network}.TAG' (see "
            f"https://huggingface.co/{hub.OWNER} for the tags), or './{source}' for a directory"
        )
    return _from_directory(source, hub.fetch(source))


def _from_directory(source: str, directory: Path) -> _Checkpoint:
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
    state_dict = read_state_dict(directory / hub.WEIGHTS)
    return _Checkpoint(source, name, state_dict, config)


def _unsupported(model_args: Any) -> list[str]:
    """Returns the entries of timm's `model_args` that our networks do not support, as text."""
    given = model_args if isinstance(model_args, Mapping) else {}
    rest = {key: value for key, value in given.items() if key not in _IGNORED_MODEL_ARGS}
    if rest.get("global_pool") in _GLOBAL_POOLS:
        rest.pop("global_pool", None)
    return [f"{key}={value!r}" for key, value in rest.items() if value is not None]


def _from_file(path: Path, name: str | None) -> _Checkpoint:
    release = released.find(path)
    network = name or (release and release.network)
    if not network:
        raise errors.UserError(
            f"{path} is not a known release, so its network is unknown; pass the network's name "
            "as name= or --model="
        )
    known = _our_name(network)  # Raises for an unknown network, before the file is read.
    return _Checkpoint(str(path), known, read_state_dict(path), release=release)


def _name_from_timm(architecture: str) -> str:
    """Returns our name of timm's network `architecture`.

    Raises:
      ValueError: there is no such network with published weights.
    """
    if architecture in _DIFFERENT_IN_TIMM:
        raise errors.UserError(
            f"timm's {architecture!r} is not the network of that name here; use a checkpoint of "
            f"'legacy_{architecture}'"
        )
    return _our_name(architecture)


def _our_name(network: str) -> str:
    """Returns our name of a network, given our name or timm's.

    Raises:
      ValueError: there is no such network with published weights.
    """
    name = _NAMES_BY_TIMM.get(network, network)
    tables.for_network(name)  # Raises for a network without a rename table.
    return name
