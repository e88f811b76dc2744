"""Directories that a run writes to: free space, and permission to write."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cnn_jax.doctor.findings import Finding, gigabytes, note, ok, problem

SET_TMPDIR = "set TMPDIR to a directory on a disk with free space that you can write to"
_LEAST = 1e9  # bytes; compiled programs of one network and a few checkpoints take this much


def temporary() -> Iterator[Finding]:
    """Yields a finding on the directory of temporary files: free space and permission to write."""
    try:
        directory = Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # Python looks in several places.
        yield problem("temporary files", str(error), SET_TMPDIR)
        return
    if fault := _fault(directory):
        yield problem("temporary files", fault, SET_TMPDIR)
    else:
        yield _space("temporary files", directory, SET_TMPDIR)


def current() -> Iterator[Finding]:
    """Yields a finding on the current directory, where work directories are usually created."""
    step = "give --workdir a directory on a disk with free space that you can write to"
    directory = Path.cwd()
    if fault := _fault(directory):
        yield note("current directory", fault, step)
    else:
        yield _space("current directory", directory, step)


def cache() -> Iterator[Finding]:
    """Yields a finding on the cache directory of compiled programs, native kernels and weights."""
    step = "set XDG_CACHE_HOME to a directory of your own on a disk with free space"
    from cnn_jax.runtime import compilation_cache  # It imports absl, which may be missing.

    try:
        wanted = compilation_cache.user_cache_directory()
        found = compilation_cache.private_directory("xla").parent
    except (OSError, RuntimeError) as error:  # RuntimeError: the home directory is unknown.
        text = f"unusable, so each run compiles its programs and kernels: {error}"
        yield note("cache", text, step)
        return
    if found != wanted.resolve():
        text = f"{found}, because other users can change {wanted} or a directory above it"
        yield note("cache", text, f"{step}, and to which only you can write")
    elif fault := _fault(found):
        yield note("cache", f"{fault}, so each run compiles its programs and kernels", step)
    else:
        yield _space("cache", found, step)


def data_sets() -> Iterator[Finding]:
    """Yields a finding on the directory of TFDS's data sets (data.source=tfds)."""
    directory = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    try:
        names = sorted(each.name for each in directory.iterdir() if each.is_dir())
    except FileNotFoundError:
        yield ok("TFDS", f"no data sets: {directory} does not exist")
        return
    except OSError as error:
        text = f"{directory} cannot be read: {error.strerror}"
        yield note("TFDS", text, "set TFDS_DATA_DIR to a directory that you can read")
        return
    yield ok("TFDS", f"data sets in {directory}: {len(names)}")


def fashion_mnist() -> Iterator[Finding]:
    """Yields a finding on the usual place of Fashion-MNIST (data.source=idx)."""
    from cnn_jax.data.sources import idx  # It imports JAX.

    for name, directory in idx.USUAL_PLACES.items():
        state = "in" if directory.is_dir() else "not in"
        yield ok(name, f"{state} {directory}, Debian's place; data.directory names another")


def _fault(directory: Path) -> str:
    """Returns the reason why no file can be written to a directory; empty if one can."""
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"0")
    except OSError as error:
        return f"{directory} cannot be written to: {error.strerror}"
    return ""


def _space(name: str, directory: Path, step: str) -> Finding:
    """Returns the finding of a writable directory: a note if its disk is nearly full."""
    text = str(directory)
    with contextlib.suppress(OSError):  # Some network file systems do not tell.
        free = shutil.disk_usage(directory).free
        text = f"{directory}, {gigabytes(free)} free"
        if free < _LEAST:
            return note(name, text, step)
    return ok(name, text)
