"""Small work directories for tests of pages, written without training."""

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax import plan
from cnn_jax.contracts import Description
from cnn_jax.evaluators import example_rows
from cnn_jax.evaluators.example_rows import ExampleRows
from cnn_jax.runs import logs, workdir

DIGITS = Description(
    class_names=tuple("0123456789"),
    native_size=(8, 8),
    input_shape=(32, 32, 1),
    mean=(0.3,),
    std=(0.4,),
    sizes={"train": 1280, "validation": 140, "test": 360},
    hashes={"train": "a" * 64, "validation": "b" * 64, "test": "c" * 64},
)
START = {
    "time": "2026-01-02T03:04:05Z",
    "command": "python -m cnn_jax.main",
    "commit": "0123abc",
    "versions": {"cnn_jax": "0.2.0", "jax": "0.10.2"},
    "hardware": {"processor": "AMD EPYC", "threads": 2},
}


def rows(final: bool = True, *, best: float = 0.9, first: float = 2.0) -> list[dict[str, Any]]:
    """Returns the log of two epochs of ten steps with 128 images each."""
    found = [
        {"step": 10, "epoch": 1.0, "split": "train", "loss": first, "top1": 0.5,
         "learning_rate": 0.1, "images_per_second": 64.0, "compile_seconds": 5.0},
        {"step": 10, "epoch": 1.0, "split": "validation", "loss": 1.5, "top1": best},
        {"step": 20, "epoch": 2.0, "split": "train", "loss": 1.0, "top1": 0.75,
         "learning_rate": 0.05, "images_per_second": 128.0},
        {"step": 20, "epoch": 2.0, "split": "validation", "loss": 1.25, "top1": 0.85},
    ]  # fmt: skip
    if final:
        found.append({"step": 20, "epoch": 2.0, "split": "test", "loss": 1.2, "top1": 0.8125})
        found.append({"step": 20, "epoch": 2.0, "split": "final", "params_sha256": "f" * 64})
    return found


def make(
    directory: Path,
    settings: Mapping[str, Any] | None = None,
    log: Sequence[Mapping[str, Any]] | None = None,
    description: Description | None = DIGITS,
    start: Mapping[str, Any] | None = START,
) -> Path:
    """Writes a work directory without checkpoints, and returns it.

    Args:
      directory: the new directory.
      settings: config values by path.
      log: the lines of the log; by default those of `rows`.
      description: the description of the data set; None for none.
      start: the entry of its only start; None for none.
    """
    directory.mkdir(parents=True)
    workdir.save_plan(directory, plan.read(settings or {}))
    if description is not None:
        workdir.save_description(directory, description)
    if start is not None:
        workdir.save(directory, workdir.ENVIRONMENT, {"starts": [start]})
    write_log(directory, rows() if log is None else log)
    return directory


def make_phases(
    directory: Path, logs_of_phases: Sequence[Sequence[logs.Row]], rate: float = 0.1
) -> Path:
    """Writes the work directory of a run in phases, whose batch sizes are 128 and 64.

    Args:
      directory: the new directory.
      logs_of_phases: the log of each phase.
      rate: the learning rate of the second phase.
    """
    second = {"epochs": 2.0, "batch_size": 64, "optim": {"learning_rate": rate}}
    phases = [{"epochs": 2.0, "trainable": "head"}, second]
    directory.mkdir(parents=True)
    workdir.save_plan(directory, plan.read({"phases": phases}))
    for number, log in enumerate(logs_of_phases, start=1):
        make(workdir.phase(directory, number), log=log)
    write_log(directory, logs.joined(logs_of_phases))
    return directory


def write_log(directory: Path, log: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(f"{json.dumps(row)}\n" for row in log)
    (directory / workdir.METRICS).write_text(text, encoding="utf-8")


def write_outcomes(
    directory: Path, right: Sequence[bool], order: Sequence[int] | None = None, split: str = "test"
) -> Path:
    """Writes the result of an evaluation with the outcome of each example, and returns its path.

    Args:
      directory: the work directory.
      right: whether each example is predicted rightly.
      order: the order in which the examples are stored.
      split: the split that was evaluated.
    """
    count = len(right)
    places = list(range(count)) if order is None else list(order)
    labels = np.arange(count) % 10
    predicted = np.where(right, labels, (labels + 1) % 10)
    columns = ExampleRows(
        names=np.array([f"{split}-{place}" for place in places]),
        labels=labels[places],
        class_names=np.array(DIGITS.class_names),
        predicted=predicted[places],
        right=np.array(right)[places],
        confidence=np.full(count, 0.75),
        nll=np.full(count, 0.5),
    )
    path = directory / f"evaluation-{split}-scores-00000000-best.json"
    about = {"data": "digits", "split": split, "examples": count, "checkpoint_steps": [1500]}
    content = {"models": [str(directory)], **about}
    workdir.save(directory, path.name, content)
    example_rows.write(path.with_suffix(".npz"), columns)
    return path


class Page(HTMLParser):
    """The texts and the tables of a page, by the fragment of their section.

    Attributes:
      texts: the text of each section.
      tables: the tables of each section: rows of cells, the header first.
      tags: all names of elements.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.tags: set[str] = set()
        self._section = ""
        self._is_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "section":
            self._section = str(dict(attrs)["id"])
            self.texts[self._section] = ""
            self.tables[self._section] = []
        elif tag == "table":
            self.tables[self._section].append([])
        elif tag == "tr":
            self.tables[self._section][-1].append([])
        elif tag in ("td", "th"):
            self.tables[self._section][-1][-1].append("")
            self._is_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._section = ""
        elif tag in ("td", "th"):
            self._is_cell = False

    def handle_data(self, data: str) -> None:
        if not self._section:
            return
        self.texts[self._section] += data
        if self._is_cell:
            self.tables[self._section][-1][-1][-1] += data

    def columns(self, section: str, number: int = 0) -> dict[str, list[str]]:
        """Returns the cells below each header of a table."""
        header, *lines = self.tables[section][number]
        return {name: [line[place].strip() for line in lines] for place, name in enumerate(header)}
