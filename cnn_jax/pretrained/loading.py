"""Networks with published weights and the preprocessing that belongs to them."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from cnn_jax import errors
from cnn_jax.pretrained import convert, heads
from cnn_jax.pretrained import source as weights
from cnn_jax.pretrained.network import Network, check_classes
from cnn_jax.pretrained.preprocessing import Preprocessing
from cnn_jax.pretrained.source import Checkpoint


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
      notes: a sentence for each choice between parts of the file, such as a prefix that was removed
        from all names, or 'model' and not 'model_ema'.
    """

    model: nn.Module
    variables: Mapping[str, Any]
    preprocessing: Preprocessing
    name: str
    options: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def load(
    source: str | os.PathLike[str],
    *,
    name: str | None = None,
    num_classes: int | None = None,
    new_head: bool | Literal["auto"] = False,
    seed: int = 0,
    input_shape: tuple[int, int, int] | None = None,
    state: str = "",
    prefix: str = "",
    **overrides: Any,
) -> Pretrained:
    """Loads a network with published weights, from the Hugging Face Hub or from local files.

    Args:
      source: a timm checkpoint `NETWORK.TAG` on the Hub, such as 'resnet50.a1_in1k' or
        'timm/resnet50.a1_in1k'; 'hf-hub:OWNER/NAME' for a repository of somebody else in timm's
        format; the path of a safetensors or torch.save file; or the path of a directory with
        config.json and model.safetensors, as on the Hub. '@REVISION' may follow a name on the Hub.
        A string is a path if it exists, contains a slash, or ends as weights files do, such as
        '.pth' and '.ckpt'. The exceptions are 'hf-hub:...', and 'timm/...' if no such path exists.
        '#state=NAME', '#prefix=TEXT' or '#state=NAME&prefix=TEXT' may follow a path, in place of
        the arguments.
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
        those of the metadata or config.json, else those that the weights are for. For others, the
        weights are changed as in timm and torchvision; `pretrained.fitting.adapt` has the rules.
      state: the entry of a torch checkpoint with the weights, such as 'model_ema'. By default
        'state_dict', else 'model', else the only dictionary of tensors.
      prefix: the prefix to remove from the names, such as 'module.encoder_q.'; other names are left
        out. By default, a prefix that all names have is removed where the names fit only then.
      **overrides: fields of the network, and `dtype`, as in `models.create`.

    Raises:
      UserError: the checkpoint does not exist, the Hub cannot be reached, or a file is damaged.
        Also if the weights do not fit, are not floating-point numbers or not finite, the head has
        another number of classes, the preprocessing is not supported, or a size is larger than a
        limit of `limits`.
    """
    if not isinstance(new_head, bool) and new_head != "auto":
        raise errors.UserError(f"new_head must be False, True or 'auto', got {new_head!r}")
    source, chosen = weights.split(source)
    found = weights.find(source, name, state or chosen.get("state", ""))
    prefix = prefix or chosen.get("prefix", "")
    found, network = found.fitted(input_shape, overrides, prefix)
    available = _available(found, network, num_classes)
    wanted = available if num_classes is None else num_classes
    check_classes(wanted)
    if num_classes == 0 and new_head is not True:
        variables = heads.without_head(network, found.state_dict)
        names: tuple[str, ...] | None = ()
    elif new_head is True or (new_head == "auto" and available != wanted):
        _check_count(wanted)
        variables = heads.with_new_head(network, found.state_dict, wanted, seed=seed)
        names = tuple(map(str, range(wanted)))
    else:
        _check_head(found, network, available, wanted)
        variables = convert.to_variables(network, found.state_dict, wanted)
        names = None
    # After the check of the shapes, because there is a name for each class that a head claims.
    prepare = found.preprocessing(network, available, asked=input_shape is not None)
    if names is not None:
        prepare = dataclasses.replace(prepare, class_names=names)
    model = network.create(wanted)
    if input_shape is None and prepare.input_shape != network.input_shape:
        _check_images(found, model, variables, prepare.input_shape)
    options = {key: value for key, value in network.options.items() if key != "dtype"}
    notes = found.notes
    if new_head == "auto" and available != wanted:
        has = f"a head for {available} classes" if available else "no head"
        notes = (*notes, f"the head for {wanted} classes is new; the weights have {has}")
    return Pretrained(model, variables, prepare, found.name, options, notes)


def _available(found: Checkpoint, network: Network, given: int | None) -> int:
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
    check_classes(available)
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


def _check_head(found: Checkpoint, network: Network, available: int, wanted: int) -> None:
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


def _check_images(
    found: Checkpoint, model: nn.Module, variables: Mapping[str, Any], images: tuple[int, int, int]
) -> None:
    """Checks that the network takes images of its preprocessing.

    Raises:
      UserError: it cannot be applied to their shape.
    """
    batch = jax.ShapeDtypeStruct((1, *images), jnp.float32)
    try:
        jax.eval_shape(functools.partial(model.apply, train=False), variables, batch)
    except Exception as error:  # of any layer
        raise _wrong_images(found, images) from error


def _wrong_images(found: Checkpoint, images: tuple[int, int, int]) -> errors.UserError:
    return errors.UserError(
        f"the preprocessing of {found.source} gives images of {'x'.join(map(str, images))} (height "
        f"x width x channels), for which {found.name} has no weights there; pass input_shape="
        f"{images} to change the weights to these images, as timm does"
    )
