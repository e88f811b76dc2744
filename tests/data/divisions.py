"""Divisions of examples, their counts, and tables of groups."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.data import stratified


def divide(
    labels: Sequence[int], names: Sequence[str] | Callable[[int], str], **changes: Any
) -> dict[str, list[int]]:
    options: dict[str, Any] = {
        "shares": (0.8, 0.1, 0.1),
        "seed": 0,
        "groups": "",
        "folds": 0,
        "fold": 0,
    }
    parts = stratified.split(np.array(labels, np.int32), names, **(options | changes))
    for part in parts.values():
        assert part.dtype == np.int64
        assert part.tolist() == sorted(part)
    return {split: part.tolist() for split, part in parts.items()}


def examples(sizes: Sequence[int]) -> tuple[list[int], list[str]]:
    """Returns the labels and the names of so many examples of each class."""
    pairs = [(label, f"{label}/{i}.png") for label, size in enumerate(sizes) for i in range(size)]
    return [label for label, _ in pairs], [name for _, name in pairs]


def counts(parts: dict[str, list[int]], labels: Sequence[int]) -> np.ndarray:
    """Returns the number of examples of each class in each split, `[K, S]`."""
    length = max(labels) + 1
    return np.stack(
        [np.bincount(np.array(labels)[part], minlength=length) for part in parts.values()], axis=1
    )


def write_table(path: Path, rows: Sequence[str], encoding: str = "utf-8") -> str:
    path.write_text("\n".join(rows) + "\n", encoding=encoding, errors="surrogateescape")
    return str(path)
