"""Files and directories of other formats are named for what they are, with the way out."""

import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnn_jax.pretrained.formats import files
from cnn_jax.pretrained.formats.files import read_metadata, read_state_dict
from tests.pretrained import checkpoints, torch_files, weight_files
from tests.pretrained.checkpoints import CONFIG, NETWORK, failure
from tests.pretrained.weight_files import DATA, Call, Stored, assert_refused, entry, name

ENTRIES = checkpoints.state_dict()


def tar() -> bytes:
    """Returns a file as torch.save wrote it until 0.1.10; `torch.serialization` lists the parts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for part in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(part), io.BytesIO())
    return buffer.getvalue()


FILES: list[tuple[str, bytes, str]] = [
    ("a.pth", tar(), r"it is a tar archive, as torch\.save wrote them until 0\.1\.10; load it"),
    ("a.h5", b"\x89HDF\r\n\x1a\n" + bytes(8), "it is an HDF5 file.*pretrained.from_keras"),
    ("a.safetensors", b"\x89HDF\r\n\x1a\n" + bytes(8), "it is an HDF5 file"),
    ("a.tflite", b"\x1c\0\0\0TFL3" + bytes(8), "it is a TensorFlow Lite model"),
    ("a.bin", b"GGUF\x03\0\0\0" + bytes(8), "it is a GGUF file"),
    ("a.pth.gz", b"\x1f\x8b\x08\x08" + bytes(8), "it is a compressed file; unpack it"),
    ("a.pth", b"<!DOCTYPE html><html>", "it is a web page, not the file; download"),
    ("a.safetensors", b"\n<html lang=en>", "it is a web page"),
    ("a.bin", b"version https://git-lfs.github.com/spec/v1\n", "it is a pointer of Git LFS"),
    ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "run 'git lfs pull'"),
    ("model.safetensors.index.json", b'{"metadata": {}, "weight_map": {}}', "it is JSON"),
    ("a.pth", b"\x08\x08\x12\x07pytorch\x1a\x052.0.0:", "it is an ONNX model"),
    ("a.onnx", b"\x08\x07:\x99\x01", "it is an ONNX model"),
    ("saved_model.pb", b"\x08\x01\x12\xff", "it is a TensorFlow graph"),
    ("model.ckpt-9.data-00000-of-00001", bytes(99), "it is a TensorFlow checkpoint"),
    ("a.ckpt", bytes(40) + bytes.fromhex("57fb808b247547db"), "it is a TensorFlow checkpoint"),
    ("bvlc.caffemodel", b"\x0a\x07AlexNet", "it is a Caffe model"),
    ("flax_model.msgpack", b"\x82\xa6params", "it is a MessagePack file of Flax"),
    (
        "a.pkl",
        pickle.dumps({"w": np.zeros(3)}, protocol=2),
        "not a file of torch.save: the magic number .* NumPy arrays, save the arrays",
    ),
]


@pytest.mark.parametrize(("file", "content", "message"), FILES, ids=[row[2] for row in FILES])
def test_a_file_of_another_format_is_named(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    (tmp_path / file).write_bytes(content)
    assert_refused(tmp_path / file, message)
    assert file in failure(tmp_path / file, name=NETWORK)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        # As torch 2.14 writes them: torch.jit.save, torch.export.save and torch.package.
        (["a/data.pkl", "a/code/__torch__.py", "a/constants.pkl"], "it is a TorchScript archive"),
        (["a/models/model.json", "a/archive_format", "a/data/weights/weight_0"], "torch.export"),
        (["serialized_exported_program.json", "version"], r"a program of torch.export \(.pt2\)"),
        (["a/.data/extern_modules", "a/m/m.pkl"], "it is an archive of torch.package"),
        (["metadata.json", "config.json", "model.weights.h5"], r"it is a \.keras archive"),
        (["model/saved_model.pb", "model/variables/variables.index"], "a TensorFlow SavedModel"),
        (["Transformer/encoder_norm/bias.npy", "cls.npy"], r"it is a NumPy archive \(\.npz\)"),
        (["weights/resnet50.pth"], "it is a zip archive; unpack it"),
    ],
)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_another_format_is_named(
    tmp_path: Path, names: list[str], message: str, compression: int
) -> None:
    for suffix in (".pt", ".safetensors"):
        path = tmp_path / f"a{suffix}"
        with zipfile.ZipFile(path, "w", compression) as archive:
            for each in names:
                archive.writestr(each, "text " * 99)
        assert_refused(path, message)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("linear.script.pt", "it is a TorchScript archive of torch.jit.save, which is a program"),
        ("linear.pt2", r"it is a program of torch.export \(.pt2\) and no state dict"),
    ],
)
def test_programs_that_torch_wrote_are_named(file: str, message: str) -> None:
    assert_refused(DATA / file, message)


def test_a_checkpoint_that_torch_wrote_is_read() -> None:
    """It has a Namespace, a Counter and the state of an optimizer beside two state dicts."""
    found = files.read(DATA / "trainer.pth")
    assert (found.key, found.others, found.left_out) == ("model", ("model_ema",), ())
    np.testing.assert_array_equal(found.arrays["weight"], np.array([[1.5, -3]], np.float32))
    average = files.read(DATA / "trainer.pth", "model_ema").arrays
    assert list(average) == ["n_averaged", "module.weight", "module.bias"]
    np.testing.assert_array_equal(average["module.weight"], np.array([[3, -6]], np.float32))
    np.testing.assert_array_equal(average["module.bias"], np.array([0.5], np.float32))


@pytest.mark.parametrize(
    ("there", "message"),
    [
        ("saved_model.pb", "is a TensorFlow SavedModel"),
        (".metadata", "is a checkpoint of torch.distributed"),
        ("_METADATA", "is a checkpoint of Orbax"),
        ("model.safetensors.index.json", "is a checkpoint in several parts"),
        ("model.safetensors", "is weights without config.json; pass the file in it"),
    ],
)
def test_a_directory_of_another_format_is_named(tmp_path: Path, there: str, message: str) -> None:
    (tmp_path / there).touch()
    found = failure(tmp_path)
    assert found.startswith(f"{tmp_path / 'config.json'} cannot be read: No such file")
    assert f"; {tmp_path} {message}" in found


def test_a_work_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "checkpoints").mkdir()
    assert f"{tmp_path} is the work directory of a run; write its" in failure(tmp_path)


def test_the_content_decides_whatever_the_name_is(tmp_path: Path) -> None:
    content = checkpoints.safetensors(ENTRIES)
    for file in ("a.pth", "a.bin", "a"):
        (tmp_path / file).write_bytes(content)
        assert read_state_dict(tmp_path / file).keys() == ENTRIES.keys()
    for legacy in (False, True):
        path = torch_files.save(tmp_path / "a.safetensors", ENTRIES, legacy=legacy)
        found = read_state_dict(path)
        for key, array in ENTRIES.items():
            np.testing.assert_array_equal(found[key], array)
        assert read_metadata(path) == {}
    metadata = {"__metadata__": {"format": "pt"}, "a": entry("U8", [1], 0, 1)}
    assert read_metadata(weight_files.write_safetensors(tmp_path / "b.bin", metadata, b"a")) == {
        "format": "pt"
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (name("torch.qint8"), "its weights are quantised; save the weights that"),
        (name("torch.QInt8Storage"), "its weights are quantised"),
        (Call("torch._utils._rebuild_qtensor", (Stored("0", 6),)), "its weights are quantised"),
        (Call("torch._utils._rebuild_tensor_v3", (Stored("0", 6),)), "such as float8 or uint16"),
        (Call("torch._utils._rebuild_sparse_tensor", ()), "a tensor is sparse"),
        (name("torch.ComplexFloatStorage"), "a tensor is complex"),
        (name("torchvision.models.resnet.ResNet"), "whole module; save module.state_dict"),
        (name("__main__.Net"), "it holds a whole module"),
        (name("os.system"), "allowed: tensors in plain containers$"),
    ],
)
def test_the_reason_of_a_refused_pickle_is_said(tmp_path: Path, value: object, reason: str) -> None:
    assert_refused(torch_files.save(tmp_path / "a.pth", {"w": value}), f"imports '.*{reason}")


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F4", "F6_E2M3"])
def test_quantised_safetensors_are_named(tmp_path: Path, kind: str) -> None:
    path = weight_files.write_safetensors(tmp_path / "a.bin", {"w": entry(kind, [1], 0, 1)}, b"a")
    assert_refused(path, f"tensor 'w' has the dtype {kind}; its weights are quantised; save")


def test_names_of_quantised_weights_are_the_cause(tmp_path: Path) -> None:
    added = {f"classifier.1.{key}": np.zeros(2, np.float32) for key in ("zero_point", "SCB")}
    path = torch_files.save(tmp_path / "a.pth", {**ENTRIES, **added})
    assert "2 names are of quantised weights; load those" in failure(path, name=NETWORK)
    directory = checkpoints.write(tmp_path / "hub", {**ENTRIES, **added}, CONFIG)
    assert "2 names are of quantised weights; load those" in failure(directory)


def test_objects_of_ignored_classes_are_no_weights(tmp_path: Path) -> None:
    """An object beside the tensors is left out; nothing of it is imported, set or called."""
    space = Call("argparse.Namespace", ())
    for value in (space, weight_files.Build(space, {"a": 1}), Call("builtins.set", ([],))):
        found = read_state_dict(torch_files.save(tmp_path / "a.pth", {**ENTRIES, "args": value}))
        assert found.keys() == ENTRIES.keys()
    entries = {**ENTRIES, "features.0.weight": space}
    message = failure(torch_files.save(tmp_path / "a.pth", entries), name=NETWORK)
    assert message.endswith("missing: features.0.weight (64, 3, 3, 3)")
    for evil in ("argparse.ArgumentParser", "builtins.eval", "collections.namedtuple"):
        path = torch_files.save(tmp_path / "a.pth", {**ENTRIES, "args": name(evil)})
        assert_refused(path, f"imports '{evil}'")
