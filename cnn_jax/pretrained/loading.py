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

# Networks that timm calls otherwise.
_OURS: Mapping[str, str] = MappingProxyType(
    {"legacy_senet154": "senet154", "legacy_xception": "xception"}
)
# Networks that timm has by the names of others: this one begins with another pooling.
_THEIRS = ("senet154",)
# Arguments of timm that change nothing in evaluation but what the shapes of the weights show.
_SHOWN = ("in_chans", "num_classes", "img_size", "drop_rate", "drop_path_rate")
_POOLINGS = ("avg", "token", "", None)
_ENDINGS = (".safetensors", ".pth", ".pt")


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A network with published weights.

        logits = model.apply(variables, preprocessing(picture)[None], train=False)

    Attributes:
      model: the network.
      variables: its parameters and running statistics, arrays of NumPy.
      preprocessing: what makes a picture an input, and the names of the classes.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing


@dataclasses.dataclass(frozen=True)
class _Checkpoint:
    """What was found at `source`, with timm's config.json or what is known of a released file."""

    source: str
    name: str
    state_dict: Mapping[str, np.ndarray]
    config: Mapping[str, Any] | None = None
    known: Released | None = None

    def preprocessing(self, num_classes: int) -> Preprocessing:
        if self.config is None:
            usual = preprocessing.for_network(self.name, num_classes)
            return dataclasses.replace(usual, **(self.known.treatment if self.known else {}))
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
    """A network with published weights, from the Hugging Face Hub or from local files.

    Args:
      source: timm's checkpoint `NETWORK.TAG` on the Hub, such as 'resnet50.a1_in1k'; or the path
        of a .safetensors, .pth or .pt file, or of a directory with config.json and
        model.safetensors as the Hub has them. A text is a path if it has a slash or such an ending.
      name: the network that a file is for. Directories say so themselves, and so do files by the
        names under which torchvision released them.
      num_classes: with `new_head` what the network shall have, else what the checkpoint must have;
        the checkpoint's own by default.
      new_head: whether the layers that depend on the number of classes shall have the network's
        initial parameters, and not the checkpoint's, which may lack them.
      seed: of those parameters.
      **overrides: fields of the network, and `dtype`, as in `models.create`.

    Raises:
      ValueError: no such checkpoint, no network, a damaged file, weights that do not fit, a head
        for another number of classes, or preprocessing of a kind that is not done here.
    """
    found = _find(source, name)
    overrides = {**convert.options(found.name, found.state_dict), **overrides}
    overrides = heads.without_auxiliary(found.name, found.state_dict, **overrides)
    own = heads.num_classes(found.name, found.state_dict, **overrides)
    wanted = own if num_classes is None else num_classes
    treatment = found.preprocessing(own)
    if new_head:
        variables = heads.with_new(
            found.name, found.state_dict, num_classes=wanted, seed=seed, **overrides
        )
        numbers = tuple(map(str, range(wanted)))
        treatment = dataclasses.replace(treatment, class_names=numbers)
    else:
        _check_head(found, own, wanted, overrides)
        variables = convert.from_torch(
            found.name, found.state_dict, num_classes=wanted, **overrides
        )
    model = models.create(found.name, num_classes=wanted, **overrides)
    return Pretrained(model, variables, treatment)


def _check_head(found: _Checkpoint, own: int, wanted: int, overrides: Mapping[str, Any]) -> None:
    if own == wanted != 0:
        return
    # If more than the head does not fit, this raises.
    heads.without(found.name, found.state_dict, num_classes=max(wanted, 1), **overrides)
    has = f"has a head for {own} classes, not {wanted}" if own else "has no head"
    raise errors.UserError(
        f"{found.source} {has}; new_head=True with num_classes=N gives it a new one"
    )


def _find(source: str | Path, name: str | None) -> _Checkpoint:
    path = Path(source)
    remote = isinstance(source, str) and "/" not in source and path.suffix not in _ENDINGS
    if name is not None and (remote or path.is_dir()):
        raise errors.UserError(f"name={name!r} is for a file; {source} says its network itself")
    if remote:
        return _from_hub(str(source))
    return _from_directory(str(source), path) if path.is_dir() else _from_file(path, name)


def _from_hub(source: str) -> _Checkpoint:
    network, _, tag = source.partition(".")
    _of_timm(network)  # An unknown one is an error before anything is fetched.
    if not tag:
        raise errors.UserError(
            f"{source!r} is a network; its checkpoints are '{network}.TAG', of which "
            f"https://huggingface.co/{hub.OWNER} has a list; a directory is './{source}'"
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
            ours = _of_timm(network)
            changes = _changes(config.get("model_args"))
        case _:
            raise errors.UserError(f"{path} names no architecture, as timm's configs do")
    if changes:
        raise errors.UserError(f"{path} changes the network by model_args: {', '.join(changes)}")
    state_dict = read_state_dict(directory / hub.WEIGHTS)
    return _Checkpoint(source, ours, state_dict, config)


def _changes(arguments: Any) -> list[str]:
    """What timm's `model_args` say that our networks do not do."""
    given = arguments if isinstance(arguments, Mapping) else {}
    changes = {key: value for key, value in given.items() if key not in _SHOWN}
    if changes.get("global_pool") in _POOLINGS:
        changes.pop("global_pool", None)
    return [f"{key}={value!r}" for key, value in changes.items() if value is not None]


def _from_file(path: Path, name: str | None) -> _Checkpoint:
    known = released.find(path)
    network = name or (known and known.network)
    if not network:
        raise errors.UserError(f"{path} does not say for which network it is: give its name")
    ours = _ours(network)
    return _Checkpoint(str(path), ours, read_state_dict(path), known=known)


def _of_timm(architecture: str) -> str:
    if architecture in _THEIRS:
        raise errors.UserError(f"timm's {architecture!r} is not ours: 'legacy_{architecture}' is")
    return _ours(architecture)


def _ours(network: str) -> str:
    """Our name of a network with weights.

    Raises:
      ValueError: there is no such network.
    """
    name = _OURS.get(network, network)
    tables.of(name)
    return name
