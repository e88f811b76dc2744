"""Directories for files that this user's programs will run, such as compiled kernels.

Another user who can write such a file, or rename a directory above it, runs code as this user. The
rules are those of OpenSSH for keys (`safe_path` in its misc.c): this user or root owns the file and
every directory above it, and nobody else may write to them. A directory above may be writable by
others if its sticky bit is set, as for /tmp: its entries then belong to their owners.

Windows has neither these owners nor these modes. There, only links are refused: a directory in the
user's profile, the default, is closed to other users by its access control list.
"""

import os
import shutil
import stat
from pathlib import Path

_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class ExposedError(PermissionError):
    """Another user can change a file or a directory; the message names it and says why."""


def private_directory(parent: Path, *names: str) -> Path:
    """Returns the real path of `parent/names[0]/names[1]/...`, which nobody else can change.

    Missing directories are created for this user alone. Directories of these names that belong to
    this user lose the permissions of others. If others could write to the last one, it is emptied.

    Raises:
      ExposedError: another user owns one of the directories, or can write to one above them.
      OSError: a directory cannot be created.
    """
    path = parent.joinpath(*names)
    _create(path)
    for own in list(reversed((path, *path.parents)))[-len(names) :]:
        if not own.is_symlink():
            _withdraw(own, empty=own == path)
    path = path.resolve(strict=True)
    for directory in reversed(path.parents):
        _require(directory, sticky=True)
    require_private(path)
    return path


def require_private(path: Path) -> None:
    """Raises ExposedError if the file or directory is a link or writable by others."""
    _require(path, sticky=False)


def user() -> str:
    """Returns the id of this user as text; empty on Windows, whose temporary files are per user."""
    return str(os.geteuid()) if hasattr(os, "geteuid") else ""


def _create(path: Path) -> None:
    """Creates a directory and those above it for this user alone, where they are missing."""
    for directory in (*reversed(path.parents), path):
        if not directory.exists():
            directory.mkdir(mode=0o700, exist_ok=True)
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is no directory")


def _withdraw(path: Path, *, empty: bool) -> None:
    """Withdraws the permission of others to write to a directory of this user."""
    status = path.stat()
    if not hasattr(os, "geteuid") or status.st_uid != os.geteuid() or not _is_open(status):
        return
    path.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)
    for entry in path.iterdir() if empty else ():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _require(path: Path, *, sticky: bool) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        raise ExposedError(f"{path} is a symbolic link")
    if not hasattr(os, "geteuid"):
        return
    # In a user namespace without root, root's files belong to the owner of the root directory.
    if status.st_uid not in (os.geteuid(), 0, Path("/").stat().st_uid):
        raise ExposedError(f"{path} belongs to user {status.st_uid}")
    if _is_open(status) and not (sticky and status.st_mode & stat.S_ISVTX):
        mode = stat.S_IMODE(status.st_mode)
        raise ExposedError(f"{path} is writable by other users (mode {mode:o})")


def _is_open(status: os.stat_result) -> bool:
    """Returns True if other users can write to a file or directory."""
    may_write = status.st_mode & _OTHERS
    return bool(may_write) and not (may_write == stat.S_IWGRP and _is_own_group(status.st_gid))


def _is_own_group(group: int) -> bool:
    """Returns True for a group that consists of this user, as many systems create for each user.

    With such groups, the usual umask is 002 and directories are writable by the group.
    """
    try:
        import grp
        import pwd

        entry = grp.getgrgid(group)
        name = pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):  # ImportError on Windows.
        return False
    return entry.gr_name == name and set(entry.gr_mem) <= {name}
