"""Page that compares runs: figures, curves, differences of their configs, and paired tests."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_jax import errors, plan
from cnn_jax.plan import Plan
from cnn_jax.report import charts, figures, page, paired
from cnn_jax.report.charts import Series
from cnn_jax.report.figures import Run
from cnn_jax.report.page import Cell, Section
from cnn_jax.runtime import files

NAME = "comparison.html"
"""The page in the first work directory."""

_SPLITS = ("train", "validation", "test")
_FIRST = ("top1", "top5", "loss")  # metrics whose columns come first
_NOT_METRICS = (
    *("learning_rate", "images_per_second", "data_wait", "compile_seconds"),
    *("gradient_norm", "parameter_norm"),
)
_WIDE_RANGE = 30.0  # ratio of losses above which their axis is logarithmic
_SAME_EPOCHS = 1.001  # ratio of the steps of an epoch below which these are equal
_DIGEST = 8  # letters of a hash that are shown
# Two columns at most, so that four charts make two rows.
_GRID = (
    '<div class="grid" style="grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr))">'
)


def write(directories: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page that compares runs, and returns its path.

    Args:
      directories: the work directories, two or more. Damaged and unfinished runs are allowed.
      out: a new .html file. By default, `NAME` in the first work directory is written or replaced.

    Raises:
      UserError: there are fewer than two directories, one does not exist, no run can be read, or
        the file exists or cannot be written.
    """
    if out is not None:
        files.check_new(out, (".html",))
    text = make(directories)
    path = out or directories[0] / NAME
    files.write(path, text)
    return path


def make(directories: Sequence[Path]) -> str:
    """Returns the page that compares runs, as HTML; see `write`."""
    if len(directories) < 2:
        raise errors.UserError(
            f"a comparison needs two work directories or more, got {len(directories)}; separate "
            "them by commas: --workdir=A,B"
        )
    read = [figures.read(directory) for directory in directories]
    if all(run.plan is None and not run.files.rows for run in read):
        reasons = "; ".join(run.missing[0].reason for run in read)
        raise errors.UserError(f"no run can be compared: {reasons}")
    runs = dict(zip(names(directories), read, strict=True))
    sections = [
        Section("Final figures", _warnings(runs) + _figures(runs)),
        Section("Missing parts", _missing(runs)),
        Section("Curves", _curves(runs)),
        Section("Differences of the configs", _differences(runs), "config"),
        Section("Paired test", paired.section(runs)),
        Section("Versions and hardware", _environments(runs), "versions"),
    ]
    return page.page(
        f"Comparison of {len(runs)} runs",
        [section for section in sections if section.body],
        subtitle=", ".join(runs),
    )


def names(directories: Sequence[Path]) -> list[str]:
    """Returns a short name for each work directory; no two are equal.

    It is the name of the directory, with as many of its parents as equal names need.

    >>> names([Path("a/lenet"), Path("b/lenet"), Path("b/vgg")])
    ['a/lenet', 'b/lenet', 'vgg']
    """
    parts = [directory.absolute().parts for directory in directories]
    found: list[str] = []
    for own in parts:
        lengths = range(1, len(own) + 1)
        rivals = [other for other in parts if other != own]
        length = next(
            (n for n in lengths if all(other[-n:] != own[-n:] for other in rivals)), len(own)
        )
        name, number = errors.printable(Path(*own[-length:]).as_posix()), 2
        known = name
        while name in found:
            name, number = f"{known} ({number})", number + 1
        found.append(name)
    return found


def _figures(runs: Mapping[str, Run]) -> str:
    """Returns the table of the final figures."""
    values = {name: _figures_of(run) for name, run in runs.items()}
    columns = sorted(dict.fromkeys(name for each in values.values() for name in each), key=_rank)
    rows = [[paired.name_cell(name), *map(each.get, columns)] for name, each in values.items()]
    note = (
        "Accuracies are fractions, losses are in nats. Figures of validation and test are those of "
        "the final parameters; those of train are means since the line before, with augmentation. "
        "The training time is that of the steps and of their compilation, without validations and "
        "checkpoints."
    )
    if any(run.plan is not None and run.plan.phases for run in runs.values()):
        note += " Of a run in phases, the best validation is that of the last phase."
    if averaged := [name for name, run in runs.items() if run.prefix]:
        note += f" Figures of {', '.join(averaged)} are those of averaged weights."
    return page.table(["run", *columns], rows) + f'<p class="note">{page.escape(note)}</p>'


def _figures_of(run: Run) -> dict[str, object]:
    """Returns the final figures of a run by the name of their column; None for unknown ones."""
    last = run.files.rows[-1] if run.files.rows else {}
    found: dict[str, object] = {
        "state": run.state,
        "network": run.plan.model.name if run.plan is not None else None,
        "parameters": run.parameters,
        "steps": last.get("step"),
        "epochs": last.get("epoch"),
        "training time": _duration(run.training_seconds()),
    }
    best = run.best_validation()
    if run.plan is not None and best is not None:
        text = f"{page.number(best[0])} <small>at step {best[1]:,}</small>"
        found[f"best validation {run.plan.eval.monitor}"] = Cell(text, best[0])
    for split in _SPLITS:
        metrics = run.values(split).items()
        found |= {f"{split} {name}": value for name, value in metrics if name not in _NOT_METRICS}
    return found


def _rank(column: str) -> tuple[int, int]:
    """Returns the place of a column: figures of the run, best validation, splits, metrics."""
    first, _, name = column.partition(" ")
    kinds = ("best", "test", "validation", "train")
    kind = kinds.index(first) + 1 if first in kinds else 0
    return kind, _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _duration(seconds: float | None) -> Cell | None:
    """Returns a cell such as '1 h 26 min', sorted by the seconds."""
    if seconds is None:
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return Cell(f"{hours:,} h {minutes} min", seconds)
    return Cell(f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s", seconds)


def _warnings(runs: Mapping[str, Run]) -> str:
    """Returns warnings of runs on different data, where figures cannot be compared."""
    known = {
        name: run.files.description
        for name, run in runs.items()
        if run.files.description is not None
    }
    found = []
    classes = {name: each.class_names for name, each in known.items()}
    if len(set(classes.values())) > 1:
        counts = {name: f"{len(each):,} classes" for name, each in classes.items()}
        if len(set(counts.values())) == 1:
            for name, each in classes.items():
                counts[name] += f", {errors.listed(each, 3)}"
        found.append(f"The runs have different classes: {_grouped(counts)}.")
    for split in _SPLITS:
        sizes = {name: each.sizes.get(split) for name, each in known.items() if each.sizes}
        hashes = {name: each.hashes.get(split, "") for name, each in known.items()}
        told = {name: _size(size, hashes[name]) for name, size in sizes.items()}
        exact = {(size, hashes[name]) for name, size in sizes.items() if hashes[name]}
        if len(set(sizes.values())) > 1 or len(exact) > 1:
            found.append(
                f"The runs have different examples in the split {split!r}: {_grouped(told)}. "
                "Figures of this split are not comparable."
            )
    unknown = [name for name in runs if name not in known or not known[name].hashes]
    if unknown:
        found.append(
            f"The data set of {', '.join(unknown)} is not recorded by its hash, so it may differ."
        )
    return "".join(f'<p class="warning">{page.escape(text)}</p>' for text in found)


def _size(size: int | None, digest: str) -> str:
    return f"{size or 0:,} examples{f' ({digest[:_DIGEST]})' if digest else ''}"


def _grouped(texts: Mapping[str, str]) -> str:
    """Returns the texts, each with the names that have it."""
    groups: dict[str, list[str]] = {}
    for name, text in texts.items():
        groups.setdefault(errors.printable(text), []).append(name)
    return "; ".join(f"{', '.join(group)}: {text}" for text, group in groups.items())


def _missing(runs: Mapping[str, Run]) -> str:
    """Returns the list of what the runs lack; empty if they are complete."""
    items = [
        f"<li><b>{page.escape(name)}</b>: {_safe(f'{gap.part}: {gap.reason}')}</li>"
        for name, run in runs.items()
        for gap in run.missing
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def _safe(text: str) -> str:
    return page.escape(errors.printable(text))


def _curves(runs: Mapping[str, Run]) -> str:
    """Returns the charts of all runs, over steps and, if they differ, over epochs."""
    lengths = [_steps_per_epoch(run) for run in runs.values() if run.files.rows]
    known = [length for length in lengths if length > 0]
    differ = bool(known) and max(known) / min(known) > _SAME_EPOCHS
    parts = []
    for place in ("step", "epoch") if differ else ("step",):
        found = [
            _chart(runs, "train", "loss", place, "Training loss", "loss [nats]"),
            _chart(runs, "validation", "loss", place, "Validation loss", "loss [nats]"),
            *(
                _chart(runs, "validation", name, place, f"Validation {name}", name)
                for name in dict.fromkeys(
                    ("top1", *(run.plan.eval.monitor for run in runs.values() if run.plan))
                )
                if name != "loss"
            ),
            _chart(runs, "train", "learning_rate", place, "Learning rate", "learning rate"),
        ]
        shown = "".join(f"<figure>{chart}</figure>" for chart in found if chart)
        if shown:
            parts.append(f"<h3>Over {place}s</h3>{_GRID}{shown}</div>")
    return "".join(parts)


def _steps_per_epoch(run: Run) -> float:
    """Returns the steps of an epoch; 0 if they are unknown."""
    last = run.files.rows[-1]
    return last["step"] / last["epoch"] if last["epoch"] else 0.0


def _chart(
    runs: Mapping[str, Run], split: str, metric: str, place: str, title: str, label: str
) -> str:
    """Returns the chart of a metric of all runs; empty if no run has it."""
    series = [Series(name, *run.curve(split, metric, place)) for name, run in runs.items()]
    values = [value for one in series for value in one.y if math.isfinite(value)]
    if not values:
        return ""
    low, high = min(values), max(values)
    log_y = metric == "loss" and low > 0 and high / low > _WIDE_RANGE
    return charts.lines(series, title=title, x_label=place, y_label=label, log_y=log_y)


def _differences(runs: Mapping[str, Run]) -> str:
    """Returns the table of the config keys whose values are not equal in all runs."""
    configs = {name: _config(run.plan) for name, run in runs.items() if run.plan is not None}
    if len(configs) < 2:
        return "<p>Fewer than two configs can be read.</p>"
    defaults = plan.flatten(plan.Plan())
    first = next(iter(configs.values()))
    paths = dict.fromkeys(path for config in configs.values() for path in config)
    differing = [
        path
        for path in paths
        if any(config.get(path) != first.get(path) for config in configs.values())
    ]
    if not differing:
        return "<p>The configs are equal.</p>"
    rows = [
        [
            _key(path),
            Cell(_value(defaults[path]) if path in defaults else page.ABSENT),
            *(_setting(path, config, defaults) for config in configs.values()),
        ]
        for path in differing
    ]
    note = (
        "Values that are not the default are bold. Keys in grey do not change the trained "
        "parameters. A dash is a value that is not given: that of the network, or of all phases."
    )
    table = page.table(["key", "default", *configs], rows)
    return f'{table}<p class="note">{note}</p>'


def _config(settings: Plan) -> dict[str, Any]:
    """Returns the values of a config by path; those of phases as 'phases[1].epochs'."""
    values = plan.flatten(settings)
    for number, phase in enumerate(values.pop("phases"), start=1):
        values |= _flat(phase, f"phases[{number}].")
    return values


def _flat(content: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Returns the values of nested dictionaries by their path, such as 'optim.learning_rate'."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        path = f"{prefix}{name}"
        found |= _flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def _key(path: str) -> Cell:
    """Returns the cell of a config key, with its comment for hovering."""
    key = plan.keys().get(path)
    comment = page.escape(key.comment) if key is not None else "an option"
    colour = "" if key is None or key.material else ' style="color:var(--muted)"'
    return Cell(f'<code title="{comment}"{colour}>{_safe(path)}</code>')


def _setting(path: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> Cell:
    if path not in config:
        return Cell(page.ABSENT)
    text = _value(config[path])
    is_default = path in defaults and config[path] == defaults[path]
    return Cell(text if is_default else f"<b>{text}</b>")


def _value(value: Any) -> str:
    return _safe(repr(value))


def _environments(runs: Mapping[str, Run]) -> str:
    """Returns the table of versions, hardware and commit of the last start of each run."""
    found = {name: _entries(run.files.starts[-1]) for name, run in runs.items() if run.files.starts}
    if not found:
        return ""
    paths = dict.fromkeys(path for entries in found.values() for path in entries)
    rows = [
        [path, *(found.get(name, {}).get(path) for name in runs)]
        for path in paths
        if len({entries.get(path) for entries in found.values()}) > 1
    ]
    starts = ["starts", *(str(len(run.files.starts)) for run in runs.values())]
    note = "Equal entries are left out."
    table = page.table(["entry", *runs], [starts, *rows], sortable=False)
    return f'{table}<p class="note">{note}</p>'


def _entries(start: Mapping[str, Any]) -> dict[str, str]:
    """Returns time, commit, versions and hardware of a start by path, such as 'versions.jax'."""
    found: dict[str, Any] = {}
    for section in ("time", "commit", "versions", "hardware"):
        part = start.get(section)
        named = part if isinstance(part, Mapping) else {}
        found |= {f"{section}.{name}": value for name, value in named.items()} or {section: part}
    return {
        errors.printable(path): errors.printable(value)
        for path, value in found.items()
        if isinstance(value, str | int | float)
    }
