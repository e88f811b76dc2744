"""Listing of directories of images.

Names are bytes, because names of files need not be text. Files get no `Path` and no call of `stat`:
a directory can hold a million of them.
"""

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from cnn_jax import errors
from cnn_jax.data import images

# The archives of macOS, the file systems of Linux and the storage of Synology add these folders.
_SYSTEM_FOLDERS = frozenset({b"__MACOSX", b"lost+found", b"@eaDir"})
_EXTENSIONS = frozenset(extension.encode() for extension in images.EXTENSIONS)
_MOST_NAMES = 10

Identities = frozenset[tuple[int, int]]
"""Device and inode numbers of directories."""


class Level(NamedTuple):
    """Sorted names in a directory, without those of hidden files and folders."""

    folders: list[bytes]
    images: list[bytes]
    others: list[bytes]


def level(path: Path) -> Level:
    """Lists a directory.

    A link whose name ends like that of an image counts as an image; its target is not looked at.

    Raises:
      UserError: the directory cannot be listed.
    """
    found = Level([], [], [])
    try:
        with os.scandir(os.fsencode(path)) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b".") or name in _SYSTEM_FOLDERS:
                    continue
                is_image = name[name.rfind(b".") :].lower() in _EXTENSIONS
                if is_image and (entry.is_file(follow_symlinks=False) or entry.is_symlink()):
                    found.images.append(name)
                elif entry.is_dir():
                    found.folders.append(name)
                else:
                    found.others.append(name)
    except OSError as error:
        raise _unlistable(path, error) from error
    for names in found:
        names.sort()
    return found


def walk(top: Path, above: Identities) -> Iterator[tuple[Path, Level | None]]:
    """Yields a directory and all directories below it, with their content.

    Follows links. The content is None for a directory that contains itself through a link.

    Args:
      top: the directory.
      above: the identities of the directories above it.

    Raises:
      UserError: a directory cannot be listed.
    """
    stack = [(top, above)]
    while stack:
        path, above = stack.pop()
        identity = _identity(path)
        if identity in above:
            yield path, None
            continue
        found = level(path)
        yield path, found
        below = above | {identity}
        stack += [(path / os.fsdecode(name), below) for name in reversed(found.folders)]


def identities(path: Path) -> Identities:
    """Returns the identities of a directory and of all directories above it.

    Raises:
      UserError: the directory does not exist or cannot be accessed.
    """
    real = path.resolve()
    return frozenset(_identity(each) for each in (real, *real.parents))


def order_hash(path: bytes) -> bytes:
    """Returns the 8 bytes that order the examples of folders and tars: a hash of the path.

    Args:
      path: the path below the folder of the split, separated by '/'.
    """
    return hashlib.blake2b(path, digest_size=8).digest()


def text(path: bytes | Path) -> str:
    r"""Returns a name or path as text that can be printed and stored everywhere.

    Bytes that are not UTF-8 become escapes.

    >>> print(text(b"caf\xe9.jpg"))
    caf\xe9.jpg
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def some(names: Collection[bytes]) -> str:
    """Returns the first names of a directory, in words."""
    listed = ", ".join(text(name) for name in sorted(names)[:_MOST_NAMES])
    more = len(names) - _MOST_NAMES
    return f"{listed} and {more:,} more" if more > 0 else listed


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unlistable(path, error) from error
    return status.st_dev, status.st_ino


def _unlistable(path: Path, error: OSError) -> errors.UserError:
    return errors.UserError(f"{text(path)} cannot be listed: {error.strerror or error}")
