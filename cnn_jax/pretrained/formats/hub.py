"""Download of checkpoints from the Hugging Face Hub; the only importer of huggingface_hub.

In the Hub's cache, `snapshots/COMMIT/NAME` is a symbolic link to `blobs/CHECKSUM`. The server sends
the checksum before the file: the sha256 of large files, git's blob hash of others.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple, Self

from cnn_jax import errors

OWNER = "timm"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_PREFIX = re.compile("hf[-_]hub:")  # as timm writes it
_REPOSITORY = re.compile(
    r"(?:(?P<owner>\w[\w.-]*)/)?(?P<name>\w[\w.-]*)(?:@(?P<revision>\w[\w./-]*))?"
)


class Repository(NamedTuple):
    """Repository of the Hub.

    Attributes:
      owner: a user or an organisation.
      name: of the repository; timm's are `NETWORK.TAG`.
      revision: a branch, tag or commit; None for the main branch.
    """

    owner: str
    name: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Returns the repository that a text names, or None if the text is a path.

        Allowed are 'NAME' and 'timm/NAME' for repositories of timm, and 'hf-hub:OWNER/NAME' for all
        others, each with an optional '@REVISION'. 'OWNER/NAME' alone is a path, so that a mistyped
        path is not sent to the Hub.

        Args:
          text: the text.
        """
        found = _REPOSITORY.fullmatch(_PREFIX.sub("", text, count=1))
        if found is None or not (_PREFIX.match(text) or found["owner"] in (None, OWNER)):
            return None
        return cls(found["owner"] or OWNER, found["name"], found["revision"])

    @property
    def id(self) -> str:
        """The id without revision."""
        return f"{self.owner}/{self.name}"


def fetch(repository: Repository) -> Path:
    """Downloads config and weights of a repository, unless the Hub's cache has them.

    If HF_HUB_OFFLINE is set, only the cache is used.

    Returns:
      The directory in the cache that contains both files.

    Raises:
      UserError: the repository does not exist, the Hub cannot be reached, or a file's checksum is
        not the one that the Hub announced.
    """
    # Imported here because only downloads need it, and it imports an HTTP client.
    import huggingface_hub

    api = huggingface_hub.HfApi(library_name="cnn_jax")
    try:
        # Both files come from one commit; without a network, from the commit fetched last.
        revision = api.resolve_revision(repository.id, revision=repository.revision)
        config, weights = (
            Path(api.hf_hub_download(repository.id, file, revision=revision))
            for file in (CONFIG, WEIGHTS)
        )
        for path in (config, weights):
            _verify(path)
    except errors.UserError:
        raise
    # The library raises errors of its own, of its HTTP client and of the file system.
    except Exception as error:
        raise errors.UserError(_message(repository.id, error)) from error
    return weights.parent


def _verify(path: Path) -> None:
    """Compares the checksum of a file in the cache with the one that the Hub announced.

    On a file system without symbolic links the cache does not record the checksum, and nothing is
    compared.

    Raises:
      ValueError: the checksums differ.
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


def _message(repository: str, error: Exception) -> str:
    """Returns the message for an error of huggingface_hub while it fetched from `repository`."""
    from huggingface_hub import constants
    from huggingface_hub import errors as hub_errors

    if isinstance(error, hub_errors.RepositoryNotFoundError):
        return (
            f"the Hugging Face Hub has no public repository {repository!r}; "
            f"https://huggingface.co/{OWNER} lists the available checkpoints"
        )
    if isinstance(error, hub_errors.RemoteEntryNotFoundError):
        return f"{repository!r} on the Hugging Face Hub has no {CONFIG} or no {WEIGHTS}"
    cause = error.__cause__ or error
    reason = (str(cause).strip() or repr(cause)).splitlines()[0]
    if isinstance(error, (hub_errors.RevisionResolutionError, hub_errors.LocalEntryNotFoundError)):
        offline = constants.is_offline_mode()
        why = (
            "HF_HUB_OFFLINE is set"
            if offline
            else f"{constants.ENDPOINT} cannot be reached: {reason}"
        )
        return (
            f"{repository!r} on the Hugging Face Hub is not in the cache {constants.HF_HUB_CACHE}, "
            f"and {why}"
        )
    return (
        f"{repository!r} on the Hugging Face Hub could not be downloaded from "
        f"{constants.ENDPOINT}: {reason}"
    )
