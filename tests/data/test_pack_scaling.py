"""Scaling of images while they are packed."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax.data import images, pillow
from cnn_jax.data.pack import inputs, writer
from cnn_jax.data.sources import shards
from tests.data.packing import check_equal, contents, encoded, interrupted, noise, pack, write


def scaled(content: bytes, tmp_path: Path, size: int) -> bytes:
    """Returns the packed bytes of an image."""
    write(tmp_path / "folder" / "a" / "1.jpg", content)
    write(tmp_path / "folder" / "b" / "2.jpg", encoded(noise(8, 8), "PNG"))
    pack(tmp_path / "folder", tmp_path / "out", size=size)
    examples = shards.source(str(tmp_path / "out")).splits["train"]
    by_name = {examples.name(index): examples[index]["image"] for index in range(2)}
    found: bytes = by_name["a/1.jpg"]
    return found


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 151, (64, 96)), (90, 65, (88, 64))]
)
@pytest.mark.parametrize("channels", [(), (3,)])
def test_a_larger_jpeg_is_scaled_to_its_shorter_side_and_encoded_again(
    tmp_path: Path, height: int, width: int, expected: tuple[int, int], channels: tuple[int, ...]
) -> None:
    original = encoded(noise(height, width, *channels), "JPEG", quality=90)
    found = scaled(original, tmp_path, 64)
    pixels = images.decode(original, channels[0] if channels else 1, "original")
    small = images.scale_shorter(pixels, 64, "bicubic")
    assert small.shape[:2] == expected
    assert found == encoded(small if channels else small[..., 0], "JPEG", quality=95)


def test_a_larger_png_stays_a_png_with_exact_pixels(tmp_path: Path) -> None:
    original = encoded(noise(80, 70, 3), "PNG")
    found = scaled(original, tmp_path, 64)
    assert pillow.header(found, "found").format == "PNG"
    expected = images.scale_shorter(images.decode(original, 3, "original"), 64, "bicubic")
    np.testing.assert_array_equal(images.decode(found, 3, "found"), expected)


def test_the_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    original = encoded(noise(100, 150, 3), "JPEG", exif=exif)
    found = pillow.header(scaled(original, tmp_path, 64), "found")
    assert (found.height, found.width, found.orientation) == (96, 64, 1)


@pytest.mark.parametrize(
    "content",
    [
        encoded(noise(64, 200, 3), "JPEG"),
        encoded(noise(30, 40, 3), "JPEG"),
        encoded(noise(30, 90, 3), "WEBP"),
        encoded(noise(100, 90).astype(np.uint16) * 257, "PNG"),
    ],
    ids=["equal", "smaller", "smaller webp", "16 bits"],
)
def test_other_images_keep_their_bytes(tmp_path: Path, content: bytes) -> None:
    assert scaled(content, tmp_path, 64) == content


def test_unreadable_images_keep_their_bytes_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truncated = encoded(noise(200, 200, 3), "JPEG")[:-500]
    contents = {"a/1.jpg": truncated, "a/2.jpg": b"", "b/3.png": b"text"}
    for name, content in contents.items():
        write(tmp_path / "folder" / name, content)
    source = inputs.open_input(tmp_path / "folder")
    writer.pack(source, tmp_path / "out", size=64)
    check_equal(shards.source(str(tmp_path / "out")), source)
    printed = capsys.readouterr().err
    for name in contents:
        assert f"warning: copied without scaling: {name}: not a readable image" in printed


def test_scaling_is_resumed_with_equal_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(folder, tmp_path / "whole", shards=3, size=16)
    with interrupted(monkeypatch, 5):
        pack(folder, tmp_path / "out", shards=3, size=16)
    pack(folder, tmp_path / "out", shards=3, size=16)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
