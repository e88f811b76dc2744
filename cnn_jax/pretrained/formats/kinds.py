"""Names of file formats that hold no state dict, and what to do with such a file.

Sources of the marks: `torch.serialization` (a TorchScript archive has `constants.pkl`),
`torch.export` and `torch.package` (entries of their archives), `magic(5)` for the first bytes, and
TensorFlow's `table/format.h` (the last bytes of a checkpoint of version 1 and of an index).
"""

import io
import re
from collections.abc import Callable, Collection
from pathlib import Path

from cnn_jax.pretrained.formats import regular

_STATE_DICT = "save the network's state_dict() with torch.save or safetensors"
_UNPACK = "unpack it, and pass the weights file in it"
_KERAS = "read it with Keras, and pass the arrays to pretrained.from_keras"
_PARTS = "join the parts into one .safetensors file"

_STARTS: tuple[tuple[bytes, str], ...] = (
    (rb"\x89HDF\r\n\x1a\n", f"an HDF5 file, as Keras writes .h5 files; {_KERAS}"),
    (rb".{4}TFL3", f"a TensorFlow Lite model; {_KERAS}"),
    (rb"GGUF", f"a GGUF file; {_STATE_DICT}"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ\0|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!", f"a compressed file; {_UNPACK}"),
    (
        rb".{257}ustar",
        "a tar archive, as torch.save wrote them until 0.1.10; load it in torch and save the state "
        "dict again, or unpack it",
    ),
    (rb"version https://git-lfs", "a pointer of Git LFS, not the file; run 'git lfs pull'"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page, not the file; download the file again"),
    (
        rb"\s*[{\[]\s*[\"{\[\d]",
        f"JSON, such as the index of several files; {_PARTS}",
    ),
    # ir_version, then producer_name: the first fields of onnx.proto's ModelProto.
    (rb"\x08[\x01-\x1f]\x12[\x01-\x3f][\w.\- ]{3}", f"an ONNX model; {_STATE_DICT}"),
)
# Protobuf and MessagePack have no mark, so these formats are known by the file's name.
_NAMES: tuple[tuple[str, str], ...] = (
    (r".*\.onnx", f"an ONNX model; {_STATE_DICT}"),
    (r".*\.pb", f"a TensorFlow graph; {_KERAS}"),
    (r".*\.(ckpt.*\.)?(data-\d+-of-\d+|index|meta)", f"a TensorFlow checkpoint; {_KERAS}"),
    (r".*\.caffemodel", "a Caffe model; convert it to a state dict with other software first"),
    (r".*\.msgpack", "a MessagePack file of Flax; save its arrays as .safetensors"),
)
_TABLE_END = bytes.fromhex("57fb808b247547db")  # the magic number of TensorFlow's tables

_TORCHSCRIPT = (
    "a TorchScript archive of torch.jit.save, which is a program and no state dict; load it in "
    "torch with torch.jit.load, and save its state_dict() with torch.save"
)
_EXPORTED = (
    "a program of torch.export (.pt2) and no state dict; load it in torch with torch.export.load, "
    "and save its state_dict with torch.save"
)
_ARCHIVES: tuple[tuple[Callable[[Collection[str]], bool], str], ...] = (
    (lambda names: _has(names, r"constants\.pkl|code/.*"), _TORCHSCRIPT),
    (
        lambda names: _has(names, r"archive_format|serialized_exported_program\.json"),
        _EXPORTED,
    ),
    (
        lambda names: _has(names, r"\.data/extern_modules"),
        f"an archive of torch.package and no state dict; {_STATE_DICT}",
    ),
    (lambda names: _has(names, r"model\.weights\.h5"), f"a .keras archive of Keras 3; {_KERAS}"),
    (lambda names: _has(names, r"saved_model\.pb"), f"a TensorFlow SavedModel; {_KERAS}"),
    (
        lambda names: bool(names) and all(name.endswith(".npy") for name in names),
        "a NumPy archive (.npz) and no state dict; save its arrays as .safetensors",
    ),
    (lambda names: _has(names, r".*\.(pth?|safetensors|bin|ckpt|h5)"), f"a zip archive; {_UNPACK}"),
)
_DIRECTORIES: tuple[tuple[str, str], ...] = (
    ("saved_model.pb", f"a TensorFlow SavedModel; {_KERAS}"),
    (
        ".metadata",
        "a checkpoint of torch.distributed.checkpoint; convert it with dcp_to_torch_save",
    ),
    ("_METADATA", "a checkpoint of Orbax; write its variables with pretrained.save"),
    ("model.safetensors.index.json", f"a checkpoint in several parts; {_PARTS}"),
    ("pytorch_model.bin.index.json", f"a checkpoint in several parts; {_PARTS}"),
    ("model.safetensors", "weights without config.json; pass the file in it, and the network"),
    ("pytorch_model.bin", "weights in torch's format; pass the file in it, and the network"),
    ("checkpoints", "the work directory of a run; write its variables with pretrained.save"),
)


def of_file(file: io.BufferedReader, path: Path) -> str:
    """Returns a clause with the format of a file that holds no state dict, and advice.

    Returns '' for other files. The position in the file is at its start afterwards.

    Args:
      file: the open file.
      path: its path; only the name matters.
    """
    start = file.read(512)
    file.seek(max(0, regular.size(file) - len(_TABLE_END)))
    end = file.read(len(_TABLE_END))
    file.seek(0)
    for pattern, kind in _STARTS:
        if re.match(pattern, start, re.DOTALL):
            return kind
    if end == _TABLE_END:
        return f"a TensorFlow checkpoint; {_KERAS}"
    return next((kind for pattern, kind in _NAMES if re.fullmatch(pattern, path.name)), "")


def of_archive(names: Collection[str]) -> str:
    """Returns the format of a zip archive that holds no state dict, and advice; else ''.

    Args:
      names: of the entries, with their top folder.
    """
    return next((kind for matches, kind in _ARCHIVES if matches(names)), "")


def of_directory(directory: Path) -> str:
    """Returns the format of a directory that is no checkpoint of timm, and advice; else ''."""
    return next((kind for name, kind in _DIRECTORIES if (directory / name).exists()), "")


def _has(names: Collection[str], pattern: str) -> bool:
    """Returns True if an entry has the name, in the top folder of the archive or without one."""
    return any(re.fullmatch(rf"([^/]*/)?({pattern})", name) for name in names)
