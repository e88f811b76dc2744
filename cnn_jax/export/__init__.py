"""Export of trained networks to files that need no cnn_jax.

    from cnn_jax import export, predictor
    network = predictor.load("runs/lenet")
    export.to_jax(network, "lenet.jax")             # StableHLO, read by jax.export.deserialize
    export.to_onnx(network, "lenet.onnx")           # for onnxruntime
    export.to_safetensors(network, "lenet-weights")  # a folder for the Hugging Face Hub and timm

- `traced.py`: the network with the normalisation of its pixels, and the description of both
- `stablehlo.py`: the format 'jax'
- `onnx/`: the format 'onnx'
- `optional.py`: the packages that write these two formats
- `weights_folder.py`, `card.py`: the format 'safetensors', with config.json and a model card
- `history.py`: the training of a run, for the model card
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from cnn_jax.export import onnx, optional, stablehlo, traced, weights_folder
from cnn_jax.export.history import History
from cnn_jax.predictor import Predictor
from cnn_jax.runtime import files

__all__ = ["FORMATS", "History", "check_out", "to_jax", "to_onnx", "to_safetensors"]

FORMATS = ("jax", "onnx", "safetensors")
_DESCRIPTION = ".json"  # after the name of the exported file


def check_out(path: Path, form: str) -> None:
    """Checks that an exported file and its description, or a folder of weights, can be made.

    The package that writes the format is loaded, because it may be missing.

    Args:
      path: the file, or the folder.
      form: one of `FORMATS`.

    Raises:
      UserError: one of them exists, the file has another ending than '.jax' or '.onnx', the
        folder for it does not exist, or the package that writes the format is not installed.
    """
    if form == "safetensors":
        files.check_new_folder(path)
        return
    files.check_new(path, [f".{form}"])
    files.check_new(_description(path), [_DESCRIPTION])
    optional.load(form)


def to_jax(
    network: Predictor,
    path: str | os.PathLike[str],
    *,
    pixels: str = "uint8",
    platforms: Sequence[str] = stablehlo.PLATFORMS,
) -> None:
    """Writes a network as StableHLO, and its description as JSON beside it.

    The program takes pixels `[B, H, W, C]` of any batch size, normalises them and returns logits
    `[B, K]` float32. `jax.export.deserialize(bytes).call(pixels)` runs it, without cnn_jax.

    Args:
      network: of a run or of published weights; see `predictor.load`.
      path: the new file, which ends in '.jax'; the description is at `path` with '.json' added.
      pixels: their dtype: 'uint8' from 0 to 255, or 'float32' from 0 to 1.
      platforms: those that the program runs on.

    Raises:
      UserError: see `check_out`, `traced.of_predictor` and `stablehlo.serialize`.
    """
    _export(
        network, path, "jax", pixels, lambda program, _: stablehlo.serialize(program, platforms)
    )


def to_onnx(network: Predictor, path: str | os.PathLike[str], *, pixels: str = "uint8") -> None:
    """Writes a network as an ONNX model, and its description as JSON beside it.

    Input 'pixels' and output 'logits' are those of `to_jax`. The description is in the metadata of
    the model, too, as 'cnn_jax'.

    Args:
      network: of a run or of published weights. The model computes in float32, also where the
        network computes in bfloat16.
      path: the new file, which ends in '.onnx'; the description is at `path` with '.json' added.
      pixels: see `to_jax`.

    Raises:
      UserError: see `check_out`, `traced.of_predictor` and `onnx.serialize`.
    """
    _export(network, path, "onnx", pixels, onnx.serialize)


def to_safetensors(
    network: Predictor,
    folder: str | os.PathLike[str],
    *,
    license_name: str = "other",
    history: History | None = None,
) -> None:
    """Writes model.safetensors, config.json and README.md into a new folder.

    Args and raised errors are those of `weights_folder.write`.
    """
    target = files.local(folder, "folder")
    weights_folder.write(network, target, license_name=license_name, history=history)


def _description(path: Path) -> Path:
    """Returns the path of the description of an exported file."""
    return path.with_name(path.name + _DESCRIPTION)


def _export(
    network: Predictor,
    path: str | os.PathLike[str],
    form: str,
    pixels: str,
    serialize: Callable[[traced.Traced, str], bytes],
) -> None:
    """Writes an exported file and its description; see `to_jax`.

    Args:
      network: of a run or of published weights.
      path: the new file.
      form: its format.
      pixels: the dtype of the pixels.
      serialize: returns the content of the file, from the traced network and its description.
    """
    target = files.local(path, "path")
    check_out(target, form)
    program = traced.of_predictor(network, pixels)
    found = traced.describe(network, program, form)
    text = json.dumps(found, indent=2, ensure_ascii=False) + "\n"
    _write(target, serialize(program, text), text)


def _write(target: Path, content: bytes, description: str) -> None:
    """Writes both files; after an error, there is neither."""
    beside = _description(target)
    with files.replacing(beside) as text, files.replacing(target) as temporary:
        text.write_text(description, encoding="utf-8")
        temporary.write_bytes(content)
        for path in (target, beside):
            if os.path.lexists(path):
                raise files.exists(path)
