"""Paths that a user gives, and files that a run reads and writes.

A work directory may be untrusted, so a file is read only if it is a regular file of
limited size, and written through a new file of an unpredictable name, which replaces the old one.
"""

import contextlib
import errno
import io
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors

# Path makes one slash of the two. One letter is a drive of Windows.
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_LONGEST = 50  # letters of a file's name in the name of its temporary file
_OF_FILE_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors that no other path avoids
# ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION of Windows: another process has the file open.
_IN_USE = (5, 32)
# Seconds between attempts. Virus scanners and indexers open a new file for a moment.
_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


def local(path: str | os.PathLike[str], name: str) -> Path:
    """Returns a local path, with the home directory in place of '~'.

    Args:
      path: the path as a user gives it.
      name: its flag, argument or config key, for messages.

    Raises:
      UserError: an address such as 'gs://bucket/run', an unknown home directory, or a path with a
        zero byte.
    """
    text = os.fspath(path)
    if _ADDRESS.match(text) and not os.path.lexists(text.partition("/")[0]):
        raise errors.UserError(
            f"{name} {text!r} is an address; only local paths are supported: mount the storage, or "
            "copy the files"
        )
    if "\0" in text:
        raise errors.UserError(f"{name} {text!r} has a zero byte, which no path may have")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        if os.path.lexists(text):
            return Path(text)
        raise errors.UserError(
            f"{name} {text!r}: there is no home directory {text.partition('/')[0]}; write ./{text} "
            "for a name that begins with ~"
        ) from error


def read(path: Path, most: int) -> bytes:
    """Returns the content of a regular file.

    Args:
      path: the file, or a link to it.
      most: the largest size in bytes.

    Raises:
      FileNotFoundError, NotADirectoryError: there is no such file.
      UserError: the file is not a regular file, too large or unreadable.
    """
    try:
        return content(path, most)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read: {error.strerror or error}") from error


def content(path: str | bytes | os.PathLike[str], most: int) -> bytes:
    """Returns the content of a regular file, as `read` does.

    Raises:
      OSError: there is no such file, or the file is not a regular file, too large or unreadable.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            reason = f"it has {size:,} bytes, more than the limit of {most:,}"
            raise OSError(errno.EFBIG, reason)
        return file.read(most)


def open_regular(path: str | bytes | os.PathLike[str]) -> io.BufferedReader:
    """Opens a regular file for reading. A FIFO or a device could wait or never end.

    Raises:
      OSError: there is no such file, or it is no regular file or unreadable.
    """
    # Without O_NONBLOCK, a FIFO would wait for its writer for ever.
    file = os.fdopen(os.open(path, os.O_RDONLY | flags("O_NONBLOCK")), "rb")
    if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return file
    file.close()
    raise OSError(errno.EINVAL, "it is no regular file")


def flags(*names: str) -> int:
    """Returns flags of `os.open`, without those that this system does not have.

    Windows has no `O_NONBLOCK` and no `O_NOFOLLOW`, and opens files as text without `O_BINARY`.
    """
    return sum(getattr(os, name, 0) for name in (*names, "O_BINARY"))


def read_json(path: Path, most: int) -> dict[str, Any]:
    """Returns the JSON object in a regular file; see `read`.

    Raises:
      FileNotFoundError, NotADirectoryError: there is no such file.
      UserError: it cannot be read, or has no JSON object.
    """
    try:
        return parse_json(read(path, most))
    except ValueError as error:
        if isinstance(error, errors.UserError):
            raise
        raise errors.UserError(f"{path} is damaged: {error}") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """Returns the JSON object in a text.

    Raises:
      ValueError: the text is no JSON, another JSON value, or nested too deeply.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is no text in UTF-8") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"not a JSON object but {type(content).__name__}")
    return content


def check_new(path: Path, endings: Sequence[str]) -> None:
    """Checks that `--out` names a file that can be created.

    Raises:
      UserError: its ending is not in `endings`, it exists, or its folder does not exist or cannot
        be written.
    """
    if path.suffix not in endings:
        raise errors.UserError(f"--out must end in {' or '.join(endings)}, got {path}")
    check_new_folder(path)


def check_new_folder(path: Path) -> None:
    """Checks that `--out` names a folder, or a file of any ending, that can be created.

    Raises:
      UserError: it exists, or the folder that it is to be made in does not or cannot be written.
    """
    if os.path.lexists(path):
        raise exists(path)
    if not path.absolute().parent.is_dir():
        raise errors.UserError(f"the folder of --out {path} does not exist; make it first")
    if not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise errors.UserError(
            f"the folder of --out {path} cannot be written; choose another --out"
        )


def exists(path: Path) -> errors.UserError:
    """Returns the error for a file of `--out` that exists."""
    return errors.UserError(f"{path} exists and is not overwritten; choose another --out")


def write(path: Path, content: str | bytes) -> None:
    """Writes a file; after a crash it has either its old or its new content.

    A link at `path` is replaced, not followed.

    Raises:
      UserError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def replacing(path: Path, ending: str = ".tmp") -> Iterator[Path]:
    """Yields a new, empty file beside `path`, which replaces it at the end of the context.

    Its name cannot be predicted. An error removes the file.

    Args:
      path: the file to write.
      ending: the ending of the name, for writers that choose a format by it.

    Raises:
      UserError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(8)}{ending}")
    how = os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags("O_NOFOLLOW")
    try:
        # Unlike tempfile.mkstemp, this leaves the mode to the umask.
        os.close(os.open(temporary, how, 0o666))
        try:
            yield temporary
            replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    except OSError as error:
        raise errors.UserError(f"{path} cannot be written: {reason(path, error)}") from error


def replace(source: Path, target: Path) -> None:
    """Renames a file and replaces the destination, if there is one.

    Windows refuses this while a process has one of the files open, so there are several attempts
    within a second.

    Raises:
      OSError: the file cannot be renamed, or another process has kept one of them open.
    """
    for pause in _PAUSES:
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if not _is_in_use(error):
                raise
        time.sleep(pause)
    os.replace(source, target)


def _is_in_use(error: OSError) -> bool:
    """Returns True for the errors of Windows for a file that another process has open."""
    return getattr(error, "winerror", None) in _IN_USE


def reason(path: Path, error: OSError) -> str:
    """Returns an error of the file system in words; names a full or read-only file system.

    >>> reason(Path("notes.txt"), PermissionError(errno.EACCES, "Permission denied"))
    'Permission denied'
    """
    words = error.strerror or str(error)
    if _is_in_use(error):
        return f"{words}; another program may have it open, so close that program"
    if error.errno not in _OF_FILE_SYSTEM:
        return words
    with contextlib.suppress(OSError):
        place = next(each for each in path.absolute().parents if each.exists())
        while not os.path.ismount(place):  # Path.is_mount of Python 3.11 fails on Windows.
            place = place.parent
        usage = shutil.disk_usage(place)
        free, total = (f"{size / 1e6:,.1f}" for size in (usage.free, usage.total))
        return f"{words} (file system {place}: {free} of {total} MB free)"
    return words
