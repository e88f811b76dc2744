"""Folders of files whose content is their name, and the examples that are read from them."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from cnn_jax.data.sources import folders

ANIMALS = ("cat/1.jpg", "cat/2.png", "dog/1.JPEG", "fox/a/b/1.webp", "fox/a/1.gif")


def write(root: Path, names: Iterable[str | bytes]) -> None:
    """Writes files whose content is their name."""
    for name in names:
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.fsencode(name))


def names(examples: folders.FolderExamples) -> list[str]:
    return [examples.name(index) for index in range(len(examples))]


def hashed(paths: Iterable[str]) -> list[str]:
    """Returns paths in the documented order."""
    return sorted(paths, key=lambda path: hashlib.blake2b(path.encode(), digest_size=8).digest())


def read(directory: Path) -> folders.FolderSource:
    return folders.source(str(directory))
