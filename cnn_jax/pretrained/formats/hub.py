"""Checkpoints of timm from the Hugging Face Hub; the only importer of huggingface_hub.

The Hub's cache keeps a file as `blobs/CHECKSUM`, to which `snapshots/COMMIT/NAME` is a link. That
checksum came from the server before the file: sha256 for large files, git's own for others.
"""

import hashlib
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub import errors as hub_errors

from cnn_jax import errors

OWNER = "timm"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


def fetch(name: str) -> Path:
    """The directory of the cache with config and weights of timm's checkpoint `name`.

    What is not in the cache is downloaded, unless HF_HUB_OFFLINE is set.

    Raises:
      ValueError: no such checkpoint, no network, or a file is not what the Hub said it would be.
    """
    repository = f"{OWNER}/{name}"
    api = huggingface_hub.HfApi(library_name="cnn_jax")
    try:
        # One commit for both files; without a network, the commit that was fetched last.
        revision = api.resolve_revision(repository)
        config, weights = (
            Path(api.hf_hub_download(repository, file, revision=revision))
            for file in (CONFIG, WEIGHTS)
        )
        for path in (config, weights):
            _verify(path)
    except errors.UserError:
        raise
    # The library raises its own errors, those of its HTTP client and of the file system.
    except Exception as error:
        raise errors.UserError(_explanation(repository, error)) from error
    return weights.parent


def _verify(path: Path) -> None:
    """Compare a file in the cache with its checksum.

    On a file system without links the checksum is not kept.
    """
    if not path.is_symlink():
        return
    expected = path.readlink().name
    with path.open("rb") as file:
        if len(expected) == len(hashlib.sha256().hexdigest()):
            found = hashlib.file_digest(file, "sha256").hexdigest()
        else:
            blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
            found = hashlib.file_digest(file, lambda: blob).hexdigest()
    if found != expected:
        raise errors.UserError(
            f"{path} is damaged or was changed: its checksum is {found}, but the Hub's is "
            f"{expected}; delete {path.resolve()} and load again"
        )


def _explanation(repository: str, error: Exception) -> str:
    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return (
            f"the Hugging Face Hub has no {repository!r}, or not for everybody; "
            f"https://huggingface.co/{OWNER} lists what it has"
        )
    if isinstance(error, hub_errors.RemoteEntryNotFoundError):
        return f"{repository!r} on the Hugging Face Hub lacks {CONFIG} or {WEIGHTS}"
    cause = error.__cause__ or error
    reason = (str(cause).strip() or repr(cause)).splitlines()[0]
    if isinstance(error, (hub_errors.RevisionResolutionError, hub_errors.LocalEntryNotFoundError)):
        offline = constants.is_offline_mode()
        why = (
            "HF_HUB_OFFLINE is set"
            if offline
            else f"{constants.ENDPOINT} cannot be reached: {reason}"
        )
        return f"{repository!r} is not in the cache {constants.HF_HUB_CACHE}, and {why}"
    return f"{repository!r} could not be fetched from {constants.ENDPOINT}: {reason}"
