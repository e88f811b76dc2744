"""The report of a run: `report.html`, and `report.json` with its figures.

from cnn_jax import report
report.write("runs/lenet", report.Wanted(human_error=0.002)).path
"""

import dataclasses
import datetime as dt
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cnn_jax
from cnn_jax import errors, limits
from cnn_jax.evaluators import label_errors
from cnn_jax.evaluators.whole_split import Tell
from cnn_jax.report import curves, gaps, matrix, measured, scores, settings, sheets, stored
from cnn_jax.report.gaps import Gap, Measurement
from cnn_jax.report.measured import Network, Outcome, Wanted
from cnn_jax.report.page import Section, escape, page
from cnn_jax.report.sheets import Sheet
from cnn_jax.report.stored import Missing, Stored
from cnn_jax.runtime import files, sharding

MAX_BYTES = 3_000_000
"""Size of a report; pictures of the contact sheets are left out beyond it."""

_OF_TRAINING = (
    '<p class="warning">The network was trained on these examples and has learned their labels, '
    "errors included: most errors are not found.</p>"
)
_DAMAGED = (AttributeError, IndexError, KeyError, TypeError, ValueError)

NAME = "report.html"
"""The report in the work directory."""


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """A report of a run.

    Attributes:
      path: the HTML file.
      content: its figures, which are in the JSON file beside it.
      html: the page.
    """

    path: Path
    content: Mapping[str, Any]
    html: str

    @property
    def missing(self) -> Sequence[Mapping[str, str]]:
        """The parts that are missing, each with 'part' and 'reason'."""
        found: Sequence[Mapping[str, str]] = self.content["missing"]
        return found


def write(
    directory: str | Path,
    wanted: Wanted | None = None,
    *,
    out: str | Path | None = None,
    tell: Tell | None = None,
) -> Report:
    """Writes the report of a run, and returns it.

    A stored evaluation of the split and the checkpoint is used. Otherwise the network is evaluated,
    and the result is stored in the work directory, as by `cnn_jax.evaluate --calibrate`.

    Args:
      directory: the work directory; parts that are missing or damaged are named in the report.
      wanted: what is reported; by default the best checkpoint on the test split.
      out: a new .html file. By default, `report.html` in the work directory is written or
        replaced.
      tell: called after each batch of the evaluation with two counts: batches finished, batches in
        total.

    Raises:
      UserError: `directory` is no work directory, `out` exists, a value of `wanted` is not allowed,
        or the file cannot be written.
    """
    wanted = wanted or Wanted()
    directory = files.local(directory, "directory")
    path = directory / NAME
    if out is not None:
        path = files.local(out, "out")
        files.check_new(path, (".html",))
        files.check_new(path.with_suffix(".json"), (".json",))
    elif directory.is_dir() and not os.access(directory, os.W_OK | os.X_OK):
        raise errors.UserError(
            f"{directory} cannot be written; give a new file elsewhere, such as --out=report.html"
        )
    _check(wanted)
    made = make(directory, wanted, tell=tell, earlier=(directory / NAME).with_suffix(".json"))
    made = dataclasses.replace(made, path=path)
    if sharding.is_primary():
        files.write(path, made.html.encode("utf-8", "backslashreplace"))
        files.write(path.with_suffix(".json"), json.dumps(made.content, indent=2) + "\n")
    return made


def _check(wanted: Wanted) -> None:
    if wanted.human_error is not None and not 0 <= wanted.human_error < 1:
        raise errors.UserError(
            "--human_error must be a share of wrong answers in [0, 1), such as 0.02 for 2 %, got "
            f"{wanted.human_error}"
        )
    if "," in wanted.checkpoint:
        raise errors.UserError(
            f"a report has one checkpoint: best, last or a step; got {wanted.checkpoint!r}"
        )


def make(
    directory: Path,
    wanted: Wanted,
    *,
    tell: Tell | None = None,
    earlier: Path | None = None,
) -> Report:
    """Returns the report of a run without writing it; evaluations are stored all the same.

    Args:
      directory: the work directory.
      wanted: see `write`.
      tell: see `write`.
      earlier: the JSON file of an earlier report, whose error of the training split is used again.

    Raises:
      UserError: see `write`.
    """
    found = stored.read(directory)
    missing = list(found.missing)
    step = stored.attempt(missing, "checkpoint", lambda: measured.step_of(found, wanted))
    outcome = _outcome(found, wanted, step, missing, tell)
    network = None
    if outcome is not None and outcome.rows is not None and step is not None:
        network = stored.attempt(missing, "pictures", lambda: measured.load(found, wanted))
    known = _known(earlier, outcome)
    found_errors = measured.errors_of(found, wanted, outcome, network, known)
    gap_rows = gaps.make(found_errors)
    suspects = _suspects(wanted, outcome, network)
    before, after = _sections(found, outcome, found_errors, gap_rows, missing)
    content = _content(found, wanted, outcome, found_errors, gap_rows, suspects, missing)
    overview = _overview(found, wanted, outcome, content)

    def assemble(tiles: int) -> str:
        sections = [overview, *before, *_pictures(wanted, suspects, tiles), *after]
        return _page(found, content, sections)

    return Report(directory / NAME, content, _fitting(assemble))


def _outcome(
    found: Stored, wanted: Wanted, step: int | None, missing: list[Missing], tell: Tell | None
) -> Outcome | None:
    """Returns the evaluation: a stored one, a new one, or the best that is left of one."""
    outcome = measured.find(found, wanted, step)
    if outcome is None and step is not None:
        part = f"evaluation on {wanted.split}"
        outcome = stored.attempt(missing, part, lambda: measured.evaluate(found, wanted, tell))
    return outcome or measured.find(found, wanted, step, complete=False)


def _known(earlier: Path | None, outcome: Outcome | None) -> Mapping[str, Any]:
    """Returns the errors in an earlier report of the same checkpoint and weights."""
    if earlier is None or outcome is None:
        return {}
    try:
        content = files.read_json(earlier, limits.MAX_STORED_BYTES)
    except (OSError, errors.UserError):
        return {}
    same = content.get("checkpoint_step") == outcome.step
    same = same and content.get("weights") == outcome.content.get("weights")
    found = content.get("errors")
    return found if same and isinstance(found, dict) else {}


@dataclasses.dataclass(frozen=True, eq=False)
class _Suspects:
    """Examples to look at, with their contact sheets.

    Attributes:
      wrong: `[M]` the wrong predictions, the most confident ones first.
      wrong_sheet: the contact sheet of the first ones.
      candidates: the likely label errors.
      candidates_sheet: the contact sheet of the first ones.
    """

    wrong: np.ndarray
    wrong_sheet: Sheet
    candidates: label_errors.Candidates
    candidates_sheet: Sheet


def _suspects(wanted: Wanted, outcome: Outcome | None, network: Network | None) -> _Suspects | None:
    if outcome is None or outcome.rows is None:
        return None
    rows = outcome.rows
    wrong = np.flatnonzero(~rows.right)
    wrong = wrong[np.argsort(-rows.confidence[wrong], kind="stable")]
    candidates = label_errors.of_rows(rows)
    margins = [f"margin {margin:.3f}" for margin in candidates.margins]
    return _Suspects(
        wrong,
        sheets.make(network, wanted.split, rows, wrong),
        candidates,
        sheets.make(network, wanted.split, rows, candidates.indices, margins),
    )


def _content(
    found: Stored,
    wanted: Wanted,
    outcome: Outcome | None,
    found_errors: Mapping[str, Measurement],
    gap_rows: Sequence[Gap],
    suspects: _Suspects | None,
    missing: Sequence[Missing],
) -> dict[str, Any]:
    """Returns the content of the JSON file."""
    content: dict[str, Any] = {
        "cnn_jax": cnn_jax.__version__,
        "time": dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "workdir": str(found.directory),
        "split": wanted.split,
        "missing": [gap._asdict() for gap in missing],
        "errors": {name: dataclasses.asdict(one) for name, one in found_errors.items()},
        "gaps": [dataclasses.asdict(gap) for gap in gap_rows],
    }
    if outcome is not None:
        content["checkpoint_step"] = outcome.step
        content["weights"] = outcome.content.get("weights")
        content["evaluation"] = outcome.path.name if outcome.path else None
        content |= {key: outcome.content[key] for key in scores.TITLES if key in outcome.content}
    if suspects is not None and outcome is not None and outcome.rows is not None:
        rows = outcome.rows
        chosen = suspects.candidates
        content["label_errors"] = {
            "candidates": len(chosen.indices),
            "first": [
                {**_example(rows, int(index)), "margin": float(margin)}
                for index, margin in zip(
                    chosen.indices[: sheets.MOST], chosen.margins[: sheets.MOST], strict=True
                )
            ],
        }
        content["confident_errors"] = {
            "errors": len(suspects.wrong),
            "first": [_example(rows, int(index)) for index in suspects.wrong[: sheets.MOST]],
        }
    return content


def _example(rows: Any, index: int) -> dict[str, Any]:
    return {
        "name": str(rows.names[index]),
        "label": str(rows.class_names[rows.labels[index]]),
        "predicted": str(rows.class_names[rows.predicted[index]]),
        "confidence": float(rows.confidence[index]),
    }


def _fitting(assemble: Callable[[int], str]) -> str:
    """Returns the page with as many pictures as `MAX_BYTES` allows."""
    html = ""
    for tiles in (sheets.MOST, 16, 8, 4, 0):
        html = assemble(tiles)
        if len(html.encode("utf-8", "backslashreplace")) < MAX_BYTES:
            break
    return html


def _sections(
    found: Stored,
    outcome: Outcome | None,
    found_errors: Mapping[str, Measurement],
    gap_rows: Sequence[Gap],
    missing: list[Missing],
) -> tuple[list[Section], list[Section]]:
    """Returns the sections before and after the pictures.

    Those of an evaluation whose file has unexpected content are added to `missing`.
    """

    def of_result(part: str, make: Callable[[Outcome], Section | None]) -> list[Section]:
        if outcome is None:
            return []
        try:
            section = make(outcome)
        except _DAMAGED as error:
            place = outcome.path.name if outcome.path else "the evaluation"
            missing.append(Missing(part, f"{place} is damaged: {type(error).__name__}: {error}"))
            return []
        return [] if section is None else [section]

    before = [curves.section(found.rows)] if found.rows else []
    if found_errors:
        before.append(scores.gap_table(found_errors, gap_rows))
    before += of_result("confusion matrix", _confusion)
    before += of_result("classes", lambda outcome: scores.classes(outcome.content))
    after = of_result("calibration", lambda outcome: scores.calibration(outcome.content))
    if found.settings is not None:
        after.append(settings.config(found.settings))
    after.append(settings.reproduction(found.directory, found.starts, found.rows, found.settings))
    return before, after


def _page(found: Stored, content: Mapping[str, Any], sections: Sequence[Section]) -> str:
    name = found.settings.model.name if found.settings is not None else ""
    title = f"{name}, {found.directory.name}" if name else found.directory.name
    subtitle = f"{found.directory}; cnn_jax {cnn_jax.__version__}, {content['time']}"
    return page(title, sections, subtitle=subtitle, scripts=[matrix.SCRIPT])


def _overview(
    found: Stored, wanted: Wanted, outcome: Outcome | None, content: Mapping[str, Any]
) -> Section:
    parts = []
    if content["missing"]:
        lines = "".join(
            f"<li><b>{escape(gap['part'])}</b>: {escape(gap['reason'])}</li>"
            for gap in content["missing"]
        )
        parts.append(f'<div class="warning"><p>What is missing:</p><ul>{lines}</ul></div>')
    if outcome is None:
        parts.append(f"<p>There is no evaluation on {escape(wanted.split)}.</p>")
        return Section("Figures", "".join(parts))
    about = outcome.content
    weights = about.get("weights")
    phase = f" of {found.last.name}" if found.last != found.directory else ""
    words = [
        f"split {wanted.split}",
        f"checkpoint of step {outcome.step:,}{phase}",
        *([f"weights: {weights[0] if isinstance(weights, list) else weights}"] if weights else []),
        *([f"data set {about['data']}"] if about.get("data") else []),
    ]
    parts.append(f"<p>{escape('; '.join(words))}.</p>{scores.figures(about)}")
    if outcome.path is not None:
        parts.append(f'<p class="note">From <code>{escape(outcome.path.name)}</code>.</p>')
    return Section("Figures", "".join(parts))


def _confusion(outcome: Outcome) -> Section | None:
    rows, confusion = outcome.rows, outcome.content.get("confusion")
    if rows is not None:
        names = list(map(str, rows.class_names))
        return matrix.section(matrix.pairs(rows.labels, rows.predicted, len(names)), names)
    if not confusion:
        return None
    names = list(outcome.content.get("per_class") or outcome.content["per_class_accuracy"])
    return matrix.section(matrix.pairs_of_matrix(confusion), names)


def _pictures(wanted: Wanted, suspects: _Suspects | None, tiles: int) -> list[Section]:
    if suspects is None:
        return []
    candidates = len(suspects.candidates.indices)
    return [
        Section(
            "Most confident errors",
            _count(len(suspects.wrong), tiles, "wrong predictions", "most confident ones")
            + suspects.wrong_sheet.html(tiles),
        ),
        Section(
            "Likely label errors",
            _count(candidates, tiles, "candidates", "most likely ones")
            + "<p>A candidate has a label A and a prediction B. Its probability of B is at least "
            "the mean probability of B over the examples labelled B (confident learning, Northcutt "
            "et al. 2021). The margin is the probability of the label minus that of the "
            "prediction.</p>"
            + (_OF_TRAINING if wanted.split.startswith("train") else "")
            + suspects.candidates_sheet.html(tiles),
        ),
    ]


def _count(total: int, tiles: int, what: str, order: str) -> str:
    shown = min(total, tiles, sheets.MOST)
    cut = "" if tiles >= sheets.MOST else ", so that the page stays below 3 MB"
    if shown == total:
        return f"<p>{total:,} {what}, the {order} first.</p>"
    return f"<p>{total:,} {what}; the {shown:,} {order} are shown{cut}.</p>"
