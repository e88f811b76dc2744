"""Random splits in which each class has the same share, by group and with folds.

An example's place follows from the seed and its name. Neither the order of the examples nor a
global random generator has a part in it. Examples of one group, such as photographs of one person,
never fall into two splits.
"""

import csv
import hashlib
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from cnn_jax import errors, limits
from cnn_jax.data.division import Parts, Pool, divide
from cnn_jax.runtime import files, seeds

SPLITS = ("train", "validation", "test")
_TRAIN, _VALIDATION, _TEST = range(3)
_DIRECTORY = "splits"


def check(shares: tuple[float, ...], folds: int, fold: int, groups: str) -> None:
    """Checks the options of `split` without reading data or files.

    Raises:
      UserError: shares, a number of folds, a fold or a pattern that `split` does not accept.
    """
    if len(shares) != 3 or not all(math.isfinite(share) and share >= 0 for share in shares):
        raise errors.UserError(
            f"data.split_shares must be three numbers of at least 0, the shares of "
            f"{', '.join(SPLITS)}, such as (0.8, 0.1, 0.1), got {shares}"
        )
    if abs(sum(shares) - 1) > 1e-5 or shares[_TRAIN] == 0:
        raise errors.UserError(
            f"data.split_shares must add up to 1, with a share of train above 0, got {shares}, "
            f"which add up to {sum(shares):g}"
        )
    if folds < 0 or folds == 1:
        raise errors.UserError(
            f"data.split_folds must be 0 (no cross-validation) or at least 2, got {folds}"
        )
    if not 0 <= fold < max(folds, 1):
        allowed = f"from 0 to {folds - 1}, the number of folds minus 1" if folds else "0"
        raise errors.UserError(
            f"data.split_fold must be {allowed} for data.split_folds={folds}, got {fold}"
        )
    if not _is_table(groups):
        _pattern(groups)


def split(
    labels: np.ndarray,
    names: Sequence[str] | Callable[[int], str],
    *,
    shares: tuple[float, ...],
    seed: int,
    groups: str,
    folds: int,
    fold: int,
) -> dict[str, np.ndarray]:
    """Divides examples into splits, each class alike.

    The examples of a class are ordered by a hash of seed and name, and the order is cut by the
    shares. The counts are the shares of each class, rounded up or down. The rounding keeps the size
    of each split within one example of its share. A class with at least as many examples as there
    are splits has one or more in each. A smaller class has one or more in 'train'. Counts and sizes
    differ from the shares where this requires it.

    Groups are assigned whole, the largest first, each to the split that lacks its classes most.
    Counts are then near the shares, not equal to them. The seed decides the order of groups of one
    size only.

    Args:
      labels: `[N]` integers.
      names: the name of each example, or a function of its number. Names are unique.
      shares: the shares of 'train', 'validation' and 'test'. A split with share 0 is absent.
      seed: another seed gives another division.
      groups: the examples that belong together; empty for none. Either the path of a file that
        ends in '.csv', with the columns 'name' and 'group', or a regular expression that is found
        in each name. Its first group, or else the whole match, is the name of the example's group.
      folds: the number of folds of cross-validation; 0 for none. 'test' is divided off first. The
        other examples are divided into folds of equal size, and the share of 'validation' is
        ignored. 'test' and the folds are the same for each value of `fold`. A class needs two or
        more examples, or groups, outside 'test'.
      fold: the fold that is 'validation', from 0. The other folds are 'train'.

    Returns:
      The numbers of the examples of each split in increasing order, `[n]` int64.

    Raises:
      UserError: wrong options, a name that two examples have, an example without a group, a file of
        groups that cannot be read, or too few examples or groups.

    >>> names = [f"{label}/{number}.png" for label in "ab" for number in range(10)]
    >>> labels = np.repeat([0, 1], 10)
    >>> parts = split(
    ...     labels, names, shares=(0.8, 0.1, 0.1), seed=0, groups="", folds=0, fold=0
    ... )
    >>> {name: np.bincount(labels[part]).tolist() for name, part in parts.items()}
    {'train': [8, 8], 'validation': [1, 1], 'test': [1, 1]}
    """
    check(shares, folds, fold, groups)
    seed = seeds.check(seed)
    texts = [names(i) for i in range(len(labels))] if callable(names) else list(names)
    if not texts:
        raise errors.UserError("there is no example to divide by data.split_shares")
    _check_unique(texts)
    pool = Pool(np.asarray(labels), _ranks(_units(texts, groups), seed), bool(groups))
    exact = _exact(shares)
    parts = _by_folds(pool, exact[_TEST], folds, fold) if folds else _by_shares(pool, exact)
    wanted = [part for part in range(3) if shares[part] or (folds and part == _VALIDATION)]
    found = {SPLITS[part]: np.flatnonzero(parts == part) for part in wanted}
    for name, numbers in found.items():
        if not numbers.size:
            raise errors.UserError(
                f"no example is left for {name!r}: data.split_shares={shares} of {pool}; add "
                f"examples, or set the share of {name} to 0"
            )
    return found


def write(directory: Path, names: Mapping[str, Sequence[str]]) -> None:
    """Writes the names of each split to `directory/splits/SPLIT.txt`, one a line.

    Lists that are there are compared and stay as they are. A crash leaves no partly written list.

    Args:
      directory: the work directory.
      names: the names of the examples of each split, in the order of the list.

    Raises:
      UserError: a list differs from the stored one, a name has a line break, or a file cannot be
        read or written.
    """
    folder = directory / _DIRECTORY
    contents = {split: _encoded(split, given) for split, given in names.items()}
    try:
        paths = sorted(folder.glob("*.txt"))
        stored = {path.stem: files.read(path, limits.MAX_SET_BYTES) for path in paths}
        for split, content in stored.items():
            _compare(folder / f"{split}.txt", content, contents.get(split))
        folder.mkdir(parents=True, exist_ok=True)
        for split in contents.keys() - stored.keys():
            files.write(folder / f"{split}.txt", contents[split])
    except OSError as error:
        raise errors.UserError(f"the lists of splits cannot be stored: {error}") from error


def _by_shares(pool: Pool, shares: Sequence[Fraction]) -> np.ndarray:
    """Returns the number of each example's split, `[N]`."""
    used = [part for part in range(len(shares)) if shares[part]]
    training = np.array([[part == _TRAIN for part in used]])
    parts = Parts(tuple(shares[part] for part in used), (1,) * len(used), training, needed=1)
    return np.array(used)[divide(pool, parts)]


def _by_folds(pool: Pool, test: Fraction, folds: int, fold: int) -> np.ndarray:
    """Returns the number of each example's split, `[N]`, with `fold` as 'validation'."""
    for label, count in pool.units_by_class().items():
        if count < 2:
            raise errors.UserError(
                f"folds need at least 2 {pool.kind} of each class, so that 'train' always has one, "
                f"but class {label} has {count}; add some, leave the class out, or set "
                "data.split_folds=0"
            )
    splits = np.full(len(pool.labels), _TEST)
    rest = np.arange(len(pool.labels))
    if test:
        parts = Parts((1 - test, test), (2, 1), np.array([[True, False]]), needed=2)
        rest = np.flatnonzero(divide(pool, parts) == 0)
    inner = pool.take(rest)
    if folds > inner.size:
        raise errors.UserError(
            f"data.split_folds={folds} is more than the number of {pool.kind} outside 'test', "
            f"which is {inner.size}; set data.split_folds to at most that"
        )
    training = ~np.eye(folds, dtype=bool)
    equal = Parts((Fraction(1, folds),) * folds, (0,) * folds, training, needed=1)
    splits[rest] = np.where(divide(inner, equal) == fold, _VALIDATION, _TRAIN)
    return splits


def _exact(shares: Sequence[float]) -> list[Fraction]:
    """Returns shares as the decimal numbers that were written, scaled to add up to 1."""
    exact = [Fraction(str(float(share))) for share in shares]
    return [share / sum(exact) for share in exact]


def _check_unique(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        [(name, count)] = Counter(names).most_common(1)
        raise errors.UserError(
            f"{count} examples have the name {name!r}; a division by names needs unique names"
        )


def _ranks(units: Sequence[str], seed: int) -> np.ndarray:
    """Returns the rank of each unit's hash, `[N]` int64; equal units have equal ranks."""
    key = str(seed).encode()
    hashes = {
        unit: hashlib.blake2b(_bytes(unit), key=key, digest_size=16).digest() for unit in set(units)
    }
    ranks = {unit: rank for rank, unit in enumerate(sorted(hashes, key=lambda unit: hashes[unit]))}
    return np.array([ranks[unit] for unit in units], np.int64)


def _units(names: Sequence[str], groups: str) -> Sequence[str]:
    """Returns the group of each example, or its name if there are no groups.

    Raises:
      UserError: an example without a group, or a file of groups that cannot be read.
    """
    if not groups:
        return names
    if _is_table(groups):
        table = _read_table(Path(groups).expanduser())
        found = [table.get(name, "") for name in names]
        problem = f"are not in the column 'name' of {groups}; add them"
    else:
        pattern = _pattern(groups)
        found = [_matched(pattern, name) for name in names]
        problem = (
            f"do not match data.split_groups={groups!r}; change the pattern, or give a file that "
            "ends in '.csv'"
        )
    missing = [name for name, group in zip(names, found, strict=True) if not group]
    if missing:
        raise errors.UserError(
            f"{len(missing)} of {len(names)} examples {problem}; the first is {missing[0]!r}"
        )
    return found


def _is_table(groups: str) -> bool:
    """Returns True if `groups` is the path of a CSV file, False if it is a pattern."""
    return groups.lower().endswith(".csv")


def _pattern(groups: str) -> re.Pattern[str]:
    try:
        return re.compile(groups)
    except re.error as error:
        raise errors.UserError(
            f"data.split_groups is neither a file that ends in '.csv' nor a regular expression: "
            f"{error.msg} at position {error.pos} of {groups!r}"
        ) from error


def _matched(pattern: re.Pattern[str], name: str) -> str:
    """Returns the name of the group; empty if the pattern does not match or matches nothing."""
    match = pattern.search(name)
    return (match[min(pattern.groups, 1)] or "") if match else ""


def _read_table(path: Path) -> dict[str, str]:
    """Reads the group of each name from a CSV file.

    Raises:
      UserError: the file cannot be read, lacks a column or a value, or has a name twice.
    """
    table: dict[str, str] = {}
    try:
        with files.open_regular(path) as stored:
            file = io.TextIOWrapper(stored, "utf-8-sig", "surrogateescape", newline="")
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if not {"name", "group"} <= set(columns):
                raise errors.UserError(
                    f"{path} must have the columns 'name' and 'group', separated by a comma, in "
                    f"its first line; it has {', '.join(map(repr, columns)) or 'none'}"
                )
            for row in reader:
                _add(table, row["name"], row["group"], f"{path}, line {reader.line_num}")
    except (OSError, csv.Error) as error:
        raise errors.UserError(f"the groups in {path} cannot be read: {error}") from error
    return table


def _add(table: dict[str, str], name: str | None, group: str | None, place: str) -> None:
    """Adds a row of a file of groups.

    Raises:
      UserError: a value is missing, or the name is in the table.
    """
    if not name or not group:
        raise errors.UserError(f"{place}: the {'group' if name else 'name'} is missing")
    if name in table:
        raise errors.UserError(f"{place}: the name {name!r} is in the file twice; keep one row")
    table[name] = group


def _bytes(name: str) -> bytes:
    """Returns a name as in the file system, where it need not be UTF-8."""
    return name.encode("utf-8", "surrogateescape")


def _encoded(split: str, names: Sequence[str]) -> bytes:
    """Returns the content of a list.

    Raises:
      UserError: a name has a line break.
    """
    broken = next((name for name in names if "\n" in name), None)
    if broken is not None:
        raise errors.UserError(
            f"the name {broken!r} in split {split!r} has a line break, but a list has one name a "
            "line; rename the file"
        )
    return b"".join(_bytes(name) + b"\n" for name in names)


def _compare(path: Path, stored: bytes, content: bytes | None) -> None:
    """Raises UserError if a list differs from the stored one."""
    if content is None:
        raise errors.UserError(
            f"{path} is there, but this run has no split {path.stem!r}; choose another --workdir"
        )
    lines = itertools.zip_longest(stored.split(b"\n"), content.split(b"\n"), fillvalue=b"")
    for number, (old, new) in enumerate(lines, start=1):
        if old != new:
            raise errors.UserError(
                f"split {path.stem!r} differs from {path}: line {number} is {_shown(old)} there, "
                f"{_shown(new)} now; restore the data set, or choose another --workdir"
            )


def _shown(line: bytes) -> str:
    """Returns a line of a list in quotes, or 'missing'."""
    return repr(line.decode("utf-8", "surrogateescape")) if line else "missing"
