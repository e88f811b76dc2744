import io
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image
from scipy import io as scipy_io

from cnn_jax import errors
from cnn_jax.data.pack import imagenet_tars, inputs, writer
from cnn_jax.data.sources import folders

# Synsets of ImageNet with their numbers in the development kit, which are in another order.
NUMBERS = {"n01440764": 3, "n02206856": 1, "n01443537": 2}
NAMES = ("tench", "goldfish", "bee")


def picture(number: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (10 + number, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


TRAIN = {
    synset: {f"{synset}_{10 * index + number}.JPEG": picture(index) for index in range(8)}
    for synset, number in NUMBERS.items()
}
VALIDATION = {f"ILSVRC2012_val_{index + 1:08}.JPEG": picture(20 + index) for index in range(9)}
TRUTH = [1, 2, 3, 3, 1, 2, 2, 2, 1]


def tar(files: Mapping[str, bytes], mode: Literal["w", "w:gz"] = "w") -> bytes:
    """Returns a tar of `files`, in the opposite order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name in reversed([*files]):
            header = tarfile.TarInfo(name)
            header.size = len(files[name])
            archive.addfile(header, io.BytesIO(files[name]))
    return file.getvalue()


def devkit(rows: Mapping[str, int], truth: list[int]) -> bytes:
    """Returns a development kit with a table of leaves and of one synset above them."""
    fields = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    table = [(number, synset, "word") for synset, number in rows.items()]
    meta = io.BytesIO()
    scipy_io.savemat(meta, {"synsets": np.array([*table, (1001, "n00001740", "entity")], fields)})
    lines = "".join(f"{number}\n" for number in truth).encode()
    folder = "ILSVRC2012_devkit_t12"
    files = {
        f"{folder}/data/ILSVRC2012_validation_ground_truth.txt": lines,
        f"{folder}/data/meta.mat": meta.getvalue(),
        f"{folder}/readme.txt": b"read me",
    }
    return tar(files, "w:gz")


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """A directory with the three archives."""
    root = tmp_path / "tars"
    root.mkdir()
    inner = {f"{synset}.tar": tar(files) for synset, files in TRAIN.items()}
    (root / imagenet_tars.TRAIN).write_bytes(tar(inner))
    (root / imagenet_tars.VALIDATION).write_bytes(tar(VALIDATION))
    (root / imagenet_tars.DEVKIT).write_bytes(devkit(NUMBERS, TRUTH))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The same images, unpacked into the usual folders."""
    synset_of = {number: synset for synset, number in NUMBERS.items()}
    files = {
        Path("train", synset, name): content
        for synset, images in TRAIN.items()
        for name, content in images.items()
    }
    for (name, content), number in zip(VALIDATION.items(), TRUTH, strict=True):
        files[Path("val", synset_of[number], name)] = content
    for path, content in files.items():
        (tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / path).write_bytes(content)
    return tmp_path / "folder"


def test_tars_equal_the_unpacked_folder(tars: Path, folder: Path) -> None:
    found, expected = inputs.open_input(tars), folders.source(str(folder))
    assert found.class_names == expected.class_names == NAMES
    assert list(found.splits) == list(expected.splits) == ["train", "validation"]
    for split, examples in expected.splits.items():
        assert len(found.splits[split]) == len(examples)
        np.testing.assert_array_equal(found.splits[split].labels(), examples.labels())
        for index in range(len(examples)):
            assert found.splits[split][index] == examples[index]
            assert found.splits[split].name(index) == examples.name(index)


def test_shards_of_tars_equal_those_of_the_unpacked_folder(
    tars: Path, folder: Path, tmp_path: Path
) -> None:
    manifests = [
        writer.pack(inputs.open_input(place), tmp_path / out, shards=2, progress=False).manifest
        for place, out in ((tars, "from_tars"), (folder, "from_folder"))
    ]
    assert manifests[0] == manifests[1]
    assert all(shard.sha256 for shard in manifests[0].files)


def test_training_images_alone_need_no_development_kit(tars: Path) -> None:
    (tars / imagenet_tars.VALIDATION).unlink()
    (tars / imagenet_tars.DEVKIT).unlink()
    source = imagenet_tars.source(tars)
    assert source.class_names == NAMES
    assert {split: len(examples) for split, examples in source.splits.items()} == {"train": 24}


def test_validation_images_alone_are_read(tars: Path) -> None:
    (tars / imagenet_tars.TRAIN).unlink()
    source = imagenet_tars.source(tars)
    assert source.class_names == NAMES
    examples = source.splits["validation"]
    labels = {examples.name(index): examples[index]["label"] for index in range(9)}
    assert labels["n02206856/ILSVRC2012_val_00000001.JPEG"] == 2


def test_hidden_files_and_folders_in_a_tar_are_ignored(tars: Path) -> None:
    file = io.BytesIO((tars / imagenet_tars.TRAIN).read_bytes())
    with tarfile.open(fileobj=file, mode="a:") as archive:
        directory = tarfile.TarInfo("folder")
        directory.type = tarfile.DIRTYPE
        archive.addfile(directory)
        archive.addfile(tarfile.TarInfo("./._n01440764.tar"))
    before = len(imagenet_tars.source(tars).splits["train"])
    (tars / imagenet_tars.TRAIN).write_bytes(file.getvalue())
    assert len(imagenet_tars.source(tars).splits["train"]) == before


def test_a_missing_development_kit_is_named(tars: Path) -> None:
    (tars / imagenet_tars.DEVKIT).unlink()
    with pytest.raises(errors.UserError, match=r"devkit_t12\.tar\.gz is missing: .* labels of"):
        imagenet_tars.source(tars)


@pytest.mark.parametrize(
    ("rows", "truth", "message"),
    [
        (NUMBERS, TRUTH[:-1], "img_val.tar holds 9 images, but .* has labels for 8"),
        ({"n01440764": 3}, TRUTH, r"devkit_t12.tar.gz is damaged or not .*: KeyError\(1\)"),
    ],
)
def test_labels_that_do_not_fit_are_named(
    tars: Path, rows: dict[str, int], truth: list[int], message: str
) -> None:
    (tars / imagenet_tars.DEVKIT).write_bytes(devkit(rows, truth))
    with pytest.raises(errors.UserError, match=message):
        imagenet_tars.source(tars)


@pytest.mark.parametrize(
    "content",
    [b"", b"text", devkit(NUMBERS, TRUTH)[:-400], tar({"readme.txt": b"read me"}, "w:gz")],
    ids=["empty", "text", "truncated", "other"],
)
def test_a_damaged_development_kit_is_named(tars: Path, content: bytes) -> None:
    (tars / imagenet_tars.DEVKIT).write_bytes(content)
    path = re.escape(str(tars / imagenet_tars.DEVKIT))
    with pytest.raises(errors.UserError, match=f"{path} is damaged or not ImageNet's development"):
        imagenet_tars.source(tars)


@pytest.mark.parametrize("name", [imagenet_tars.TRAIN, imagenet_tars.VALIDATION])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6])
def test_a_truncated_tar_is_named(tars: Path, name: str, share: float) -> None:
    path = tars / name
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(errors.UserError, match=f"{re.escape(str(path))} is not a complete tar: "):
        imagenet_tars.source(tars)


@pytest.mark.parametrize("inner", [True, False])
def test_a_tar_that_ends_between_two_files_is_named(tars: Path, inner: bool) -> None:
    whole = tar(TRAIN["n01440764"])
    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        cut = whole[: archive.getmembers()[3].offset]
    if inner:
        (tars / imagenet_tars.TRAIN).write_bytes(tar({"b.tar": cut, "a.tar": whole}))
    else:
        (tars / imagenet_tars.VALIDATION).write_bytes(cut)
    with pytest.raises(errors.UserError, match=r"complete tar: no header and no end mark at byte"):
        imagenet_tars.source(tars)


def test_a_damaged_header_is_named(tars: Path) -> None:
    path = tars / imagenet_tars.TRAIN
    content = bytearray(path.read_bytes())
    place = content.index(b"n02206856_31.JPEG")  # In the middle of an inner tar.
    content[place + 150] ^= 1  # In the checksum of the header.
    path.write_bytes(content)
    with pytest.raises(errors.UserError, match=r"complete tar: no header and no end mark at byte"):
        imagenet_tars.source(tars)


def test_a_tar_that_is_none_is_named(tars: Path) -> None:
    (tars / imagenet_tars.TRAIN).write_bytes(b"<html>not found</html>" * 100)
    with pytest.raises(errors.UserError, match=r"img_train\.tar is not a complete tar: "):
        imagenet_tars.source(tars)


def test_a_training_tar_of_images_is_refused(tars: Path) -> None:
    (tars / imagenet_tars.TRAIN).write_bytes(tar(VALIDATION))
    with pytest.raises(errors.UserError, match=r"holds 'ILSVRC2012_val_\d+.JPEG', but should hold"):
        imagenet_tars.source(tars)


def test_a_tar_that_becomes_shorter_is_named(tars: Path) -> None:
    examples = imagenet_tars.source(tars).splits["train"]
    os.truncate(tars / imagenet_tars.TRAIN, 1024)
    with pytest.raises(errors.UnreadableImageError, match=r"_\d+\.JPEG in .* became shorter"):
        examples[0]
