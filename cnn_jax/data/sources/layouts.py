"""The names of the folders of an image folder: splits, and names that are easily confused."""

import os
import re
import unicodedata
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from cnn_jax import errors
from cnn_jax.data.sources import listing

_SPLITS: Mapping[bytes, str] = MappingProxyType(
    {
        **dict.fromkeys((b"train", b"training"), "train"),
        **dict.fromkeys((b"validation", b"val", b"valid"), "validation"),
        **dict.fromkeys((b"test", b"testing"), "test"),
    }
)
# Such as seg_train, train_set and Test-Images, but not trains.
_LIKE_SPLIT = re.compile(
    r"(?:.*[^a-z])?(train|val|test)(?:ing|id|idation)?(?:[^a-z].*)?", re.IGNORECASE | re.DOTALL
)


def splits(root: Path, folders: Collection[bytes]) -> dict[str, bytes]:
    """Returns the folder of each split; empty if there are only class folders.

    Args:
      root: the directory.
      folders: the names of the folders in it.

    Raises:
      UserError: two folders are the same split, or folders look like splits with other names.
    """
    found: dict[str, bytes] = {}
    for split in dict.fromkeys(_SPLITS.values()):
        names = [name for name in folders if _SPLITS.get(name.lower()) == split]
        if len(names) > 1:
            raise errors.UserError(
                f"{listing.text(root)} holds several folders of the split {split!r}: "
                f"{listing.some(names)}; merge them, or move all but one away"
            )
        if names:
            found[split] = names[0]
    if not found:
        _check_unlike_splits(root, folders)
    return found


def check_variants(root: Path, used: Collection[bytes], trained: Collection[bytes]) -> None:
    """Checks that no class has two names that look alike.

    Args:
      root: the directory, for messages.
      used: the names of the class folders with images in any split.
      trained: the names of the class folders with training images.

    Raises:
      UserError: two names are equal after Unicode normalisation. Also if a class without training
        images has the name of a class with training images, up to case and normalisation.
    """
    shown: dict[str, bytes] = {}
    for name in sorted(used):
        other = shown.setdefault(unicodedata.normalize("NFC", listing.text(name)), name)
        if other != name:
            raise _alike(root, other, name)
    folded = {_folded(name): name for name in trained}
    for name in sorted(set(used) - set(trained)):
        if _folded(name) in folded:
            raise _alike(root, folded[_folded(name)], name)


def _check_unlike_splits(root: Path, folders: Collection[bytes]) -> None:
    """Checks that no class folders look like splits.

    Raises:
      UserError: folders that hold only folders are named like a training set and a test set.
    """
    kinds = {}
    for name in folders:
        match = _LIKE_SPLIT.fullmatch(listing.text(name))
        if match and not listing.level(root / os.fsdecode(name)).images:
            kinds[name] = match[1].lower()
    if "train" in kinds.values() and len(set(kinds.values())) > 1:
        raise errors.UserError(
            f"{listing.text(root)} holds the folders {listing.some(kinds)}, which hold no images "
            "but folders. If they are splits, rename them to train, val and test; if they are "
            "classes, move their images directly into them"
        )


def _folded(name: bytes) -> str:
    return unicodedata.normalize("NFC", listing.text(name)).casefold()


def _alike(root: Path, first: bytes, second: bytes) -> errors.UserError:
    return errors.UserError(
        f"{listing.text(root)} holds class folders whose names look alike: {first!r} and "
        f"{second!r}, which differ by case or by the form of Unicode; give both one name"
    )
