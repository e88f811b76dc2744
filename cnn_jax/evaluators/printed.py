"""The rows of the tables that `cnn_jax.evaluate` prints, by their first column."""

from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.evaluators.of_run import Evaluation
from cnn_jax.evaluators.swept import Swept
from cnn_jax.evaluators.thorough_files import Thorough

_MOST_CLASSES = 100  # that are printed; the .json file has all of them
_SCORES = ("top1", "top5", "nll", "brier", "ece")
_MACRO = ("macro_precision", "macro_recall", "macro_f1")
_OF_CLASS = ("precision", "recall", "f1")


def of_evaluation(found: Evaluation, split: str, which: str) -> dict[str, str]:
    """Returns the rows of an evaluation of a run.

    Args:
      found: the result.
      split: the split.
      which: the checkpoint: 'best', 'last' or a step.
    """
    chosen = {"best": "the best by validation", "last": "the last"}.get(which, "as given")
    rows = {
        "checkpoint": f"step {found.step}, {chosen}",
        **({"weights": found.weights} if found.weights else {}),
        **({"data": found.data} if found.data else {}),
        "split": f"{split}, {int(found.counts.sum()):,} examples",
        **{name: f"{value:.4f}" for name, value in found.values.items()},
    }
    for name, accuracy in found.class_accuracies.items():
        rows[f"class {name}"] = "no example" if accuracy is None else f"{accuracy:.4f}"
    return rows


def of_thorough(found: Thorough) -> dict[str, str]:
    """Returns the rows of a thorough evaluation."""
    about = found.content
    rows, ends = _about(about), about["intervals"]
    for name in (*_SCORES, *_MACRO):
        if name in about:
            interval = " ({:.4f} to {:.4f})".format(*ends[name]) if name in ends else ""
            rows[name] = f"{about[name]:.4f}{interval}"
    rows["intervals"] = (
        f"{ends['level']:.0%}, {ends['resamples']:,} bootstrap resamples of the examples, seed "
        f"{ends['seed']}"
    )
    rows |= _members(about.get("members", []))
    rows |= _calibrated(about.get("calibration", {}))
    real = about.get("real", {})
    rows |= {name: f"{real[name]:.4f}" for name in ("real_top1", "real_top5") if name in real}
    rows |= _compared(about.get("against", {}))
    return rows | _classes(found)


def of_sweep(found: Swept) -> dict[str, str]:
    """Returns the rows of a sweep over corruptions: the accuracies of the severities in columns."""
    about, sweep = found.content, found.sweep
    rows = _about(about)
    rows["corrupted"] = f"the {about['corrupt']} image, seed {about['seed']}"
    rows["top1"] = f"{sweep.clean['top1']:.4f} without corruptions"
    rows["severity"] = " ".join(f"{title:<6}" for title in (*sweep.severities, "mean")).rstrip()
    for name, accuracies in zip(sweep.corruptions, sweep.accuracy, strict=True):
        values = (*accuracies, accuracies.mean())
        rows[f"top1 {name}"] = " ".join(f"{value:.4f}" for value in values)
    rows["mean_error"] = f"{sweep.mean_error:.4f}"
    if "mce" in about:
        rows["mce"] = f"{about['mce']:.4f} relative to AlexNet"
    return rows


def _about(about: Mapping[str, Any]) -> dict[str, str]:
    """Returns the rows of what was evaluated."""
    soup = about.get("soup", {})
    rows = {
        "model": " + ".join(about["models"]),
        "checkpoint": ", ".join(f"step {step}" for step in about.get("checkpoint_steps", [])),
        "weights": " + ".join(filter(None, about.get("weights", []))),
        "soup": f"{soup['kind']}, of {' + '.join(soup['members'])}" if soup else "",
        "statistics": f"of {soup['statistics_split']}" if "statistics_split" in soup else "",
        "split": f"{about['data']}, {about['split']}, {about['examples']:,} examples",
        "left out": f"{about['left_out']:,} of other classes" if "left_out" in about else "",
        "views": about.get("views", ""),
        "mean": f"of the {about['mean']}" if "mean" in about else "",
    }
    return {name: text for name, text in rows.items() if text}


def _members(found: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Returns a row for each member of an ensemble."""
    return {
        f"member {each['model']}": ", ".join(
            f"{name} {each[name]:.4f}" for name in _SCORES if name in each
        )
        for each in found
    }


def _calibrated(found: Mapping[str, Any]) -> dict[str, str]:
    if not found:
        return {}
    names = ("calibrated_nll", "calibrated_brier", "calibrated_ece")
    where = f"fitted on {found['fit_examples']:,} examples of {found['fit_split']}"
    warning = "; this is the limit of the search, there is no best one" if found["is_limit"] else ""
    return {
        "temperature": f"{found['temperature']:.4f}, {where}{warning}",
        **{name: f"{found[name]:.4f}" for name in names},
    }


def _compared(found: Mapping[str, Any]) -> dict[str, str]:
    if not found:
        return {}
    rows = {"against": str(found["result"])}
    for name in ("top1_difference", "nll_difference"):
        low, high = found[f"{name}_interval"]
        rows[name] = f"{found[name]:+.4f} ({low:+.4f} to {high:+.4f})"
    counts = f"right only here {found['only_this']:,}, only there {found['only_earlier']:,}"
    return {**rows, "McNemar's test": f"p = {found['p_value']:.3g}; {counts}"}


def _classes(found: Thorough) -> dict[str, str]:
    if len(found.class_names) > _MOST_CLASSES:
        place = "--out writes" if found.path is None else "the .json file has"
        return {"classes": f"{len(found.class_names):,}; {place} the values of each"}
    rows = {}
    for name, each in found.per_class.items():
        values = [f"{key} {each[key]:.4f}" for key in _OF_CLASS if each[key] is not None]
        rows[f"class {name}"] = ", ".join(values) or "no example"
    return rows
