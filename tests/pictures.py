"""Image files for tests, written by Pillow or, where Pillow cannot write them, by hand."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def stored(picture: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(np.ascontiguousarray(picture))
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def png(size: tuple[int, int], bits: int, kind: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG file with `bits` per sample; `kind` is 0 for grey and 2 for RGB."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], bits, kind, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows, 1))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + pixels + chunk(b"IEND", b"")


def tiff(size: tuple[int, int], pixels: bytes, tags: dict[int, int]) -> bytes:
    """A TIFF file of grey pixels with further tags of one number each."""
    entries = {256: size[1], 257: size[0], 262: 1, 273: 0, 277: 1, 279: len(pixels), **tags}
    start = 8 + 2 + 12 * len(entries) + 4
    entries[273] = start
    packed = (struct.pack("<HHII", tag, 4, 1, entries[tag]) for tag in sorted(entries))
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + b"".join(packed) + bytes(4) + pixels
