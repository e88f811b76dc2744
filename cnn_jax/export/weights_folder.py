"""Folder of weights for the Hugging Face Hub: safetensors, timm's config.json and a model card."""

import contextlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnn_jax import errors, models, pretrained
from cnn_jax.data import crops
from cnn_jax.export import card, traced
from cnn_jax.export.history import History
from cnn_jax.predictor import Predictor
from cnn_jax.predictor.opening import EvalPreprocessing
from cnn_jax.pretrained import Preprocessing
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.formats import hub
from cnn_jax.pretrained.source import NAMES_BY_TIMM
from cnn_jax.runtime import files

CARD = "README.md"
# Networks with published weights that timm 1.0.31 does not have.
_NOT_IN_TIMM = re.compile(r"alexnet.*|googlenet.*|mobilenetv1_0.*|shufflenet.*|squeezenet.*")
_SIZED = ("vit_", "swin_")  # networks of timm whose weights depend on the argument img_size
_FIELDS = ("remat",)  # fields that do not change the network's outputs


def write(
    network: Predictor,
    folder: Path,
    *,
    license_name: str = "other",
    history: History | None = None,
) -> None:
    """Writes the weights of a network, their config and a model card into a new folder.

    After an error there is no such folder.

    Args:
      network: of a run or of published weights.
      folder: the new folder.
      license_name: of the weights, as the Hugging Face Hub writes it, such as 'apache-2.0'.
      history: the training, for the model card.

    Raises:
      UserError: the folder exists or cannot be written, or the network is not one that
        `pretrained.save` can name.
    """
    files.check_new_folder(folder)
    name, options = _network(network)
    prepare = preprocessing(network)
    config = configuration(network, prepare, name, options)
    with _new(folder) as temporary:
        pretrained.save(
            temporary / hub.WEIGHTS,
            name,
            network.variables,
            num_classes=len(network.class_names) or None,
            input_shape=network.input_shape,
            preprocessing=prepare,
            **options,
        )
        text = json.dumps(config, indent=2, ensure_ascii=False)
        files.write(temporary / hub.CONFIG, f"{text}\n")
        files.write(temporary / CARD, card.write(network, config, license_name, history))


def configuration(
    network: Predictor, prepare: Preprocessing, name: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the content of config.json, as timm has it.

    Args:
      network: the predictor.
      prepare: its preprocessing.
      name: the name of its network.
      options: the fields of the network that differ from its variant's.
    """
    height, width, channels = network.input_shape
    theirs = timm_name(network, name, options)
    arguments: dict[str, Any] = {}
    if channels != 3:
        arguments["in_chans"] = channels
    if name.startswith(_SIZED) and (height, width) != models.input_shape(name)[:2]:
        arguments["img_size"] = [height, width]
    size = [channels, height, width]
    return {
        "architecture": theirs or name,
        "num_classes": len(network.class_names),
        **({"model_args": arguments} if arguments and theirs else {}),
        **({} if theirs else {"library": "cnn_jax", "options": dict(options)}),
        "label_names": list(network.class_names),
        "pretrained_cfg": {
            "num_classes": len(network.class_names),
            "input_size": size,
            "fixed_input_size": name.startswith(_SIZED),
            "interpolation": prepare.interpolation,
            "crop_pct": share(prepare),
            "crop_mode": "squash" if prepare.squash else "center",
            "mean": list(prepare.mean),
            "std": list(prepare.std),
        },
    }


def timm_name(network: Predictor, name: str, options: Mapping[str, Any]) -> str | None:
    """Returns the name by which timm builds a network; None if it cannot build it."""
    if name not in tables.published() or _NOT_IN_TIMM.fullmatch(name) or options:
        return None
    published = models.input_shape(name)[:2] == network.input_shape[:2]
    if name.startswith("vgg") and not published:
        return None  # Their dense layers then have other names in the file; see `pretrained.save`.
    return next((theirs for theirs, ours in NAMES_BY_TIMM.items() if ours == name), name)


def preprocessing(network: Predictor) -> Preprocessing:
    """Returns the preprocessing of a predictor for weights files.

    A run whose images are padded has no crop there: images of another size are scaled.

    Raises:
      UserError: the predictor has a preprocessing that is not one of cnn_jax.
    """
    given = network.preprocessing
    if isinstance(given, Preprocessing):
        return given
    if not isinstance(given, EvalPreprocessing):
        traced.resizing(network)  # Raises the error.
        raise TypeError(type(given).__name__)
    height, width, _ = network.input_shape
    if isinstance(given.crop, crops.Centre):
        resize_size, filtered = given.crop.shorter_side, given.crop.interpolation
    else:
        resize_size, filtered = min(height, width), given.crop.resize
    return Preprocessing(
        image_size=height,
        resize_size=resize_size,
        class_names=network.class_names,
        mean=given.mean,
        std=given.std,
        interpolation="bilinear" if filtered == "pad" else filtered,
        image_width=0 if width == height else width,
    )


def _network(network: Predictor) -> tuple[str, dict[str, Any]]:
    """Returns the name of a predictor's network, and the fields that differ from its variant's.

    Raises:
      UserError: the network has no name.
    """
    if network.model is None:
        raise errors.UserError(
            "a weights file names its network, and the objective of this run has no attribute "
            "'model'; export with --format=jax or --format=onnx"
        )
    name = models.name_of(network.model)
    defaults = models.options(name)
    return name, {
        key: getattr(network.model, key)
        for key, default in defaults.items()
        if key not in _FIELDS and getattr(network.model, key, default) != default
    }


def share(prepare: Preprocessing) -> float:
    """Returns timm's `crop_pct`, from which it computes `resize_size` by rounding down."""
    size = prepare.input_shape[:2]
    side = max(size) if prepare.squash else min(size)
    for digits in range(3, 12):
        share = round(side / prepare.resize_size, digits)
        if share > 0 and math.floor(side / share) == prepare.resize_size:
            return share
    return side / prepare.resize_size


@contextlib.contextmanager
def _new(folder: Path) -> Iterator[Path]:
    """Yields a temporary folder, which becomes `folder` at the end of the context.

    Raises:
      UserError: the folder cannot be made, or exists by then.
    """
    temporary = folder.with_name(f".{folder.name[:50]}.{secrets.token_hex(8)}.tmp")
    try:
        temporary.mkdir()
        try:
            yield temporary
            if os.path.lexists(folder):
                raise files.exists(folder)
            temporary.rename(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        raise errors.UserError(
            f"{folder} cannot be written: {files.reason(folder, error)}"
        ) from error
