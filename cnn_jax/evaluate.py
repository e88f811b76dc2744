r"""Evaluate a checkpoint of a run on a whole split, every example exactly once.

  python -m cnn_jax.evaluate --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]

prints loss, accuracies and the accuracy on each class, and writes the same with the confusion
matrix to DIR/evaluation-SPLIT-CHECKPOINT.json and .png. A message names the files that cannot be
written, as in a read-only DIR; the exit status is 1 only if --out asked for them. The confusion
matrix of more than 1,000 classes is made with --confusion only, as an .npy file.

  python -m cnn_jax.evaluate --workdir=DIR --split='test[:50%]'
  python -m cnn_jax.evaluate --workdir=DIR --split=test \
    --config.data.source=folder --config.data.directory=PHOTOS

evaluates on a slice of a stored split, or on another data set with the classes of the run.
--config.data.KEY=VALUE is allowed for the keys source, name, directory, classes, eval_crop,
eval_image_size, resize, shorter_side, workers and max_bad_images.

  python -m cnn_jax.evaluate --model=resnet50.a1_in1k --config.data.source=folder \
    --config.data.directory=IMAGENET --split=validation --csv=results.csv
  python -m cnn_jax.evaluate --workdir=DIR,DIR2,DIR3
  python -m cnn_jax.evaluate --workdir=DIR --views=ten_crops --calibrate --against=RESULT.json

evaluates published weights (--model, --weights), an ensemble, or several views of each image.
These flags, and each one from --views on, also print calibration error, Brier score, precision,
recall and F1, with 95 % intervals by bootstrap. The .json result then has an .npz file with the
outcome of each example beside it. Published weights write files with --out and --csv only.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_jax import errors, limits
from cnn_jax.runtime import console, flags

if TYPE_CHECKING:
    from cnn_jax.evaluators.of_run import Evaluation
    from cnn_jax.evaluators.thorough_files import Thorough
    from cnn_jax.evaluators.whole_split import Tell
    from cnn_jax.plan import Plan

_MOST_CLASSES = 100  # that are printed; the .json file has all of them


def main() -> int:
    """Runs the command line."""
    args, others = _parser().parse_known_args()
    flags.check_network(args)
    # Imported here, so that --help and mistakes in the flags answer at once.
    from cnn_jax.runs import workdir
    from cnn_jax.runtime import compilation_cache, sharding

    workdirs = [workdir.last_phase(path) for path in _listed(args.workdir)]
    settings = _settings(workdirs[0] if workdirs else None, others) if others else None
    sharding.start()
    sharding.check_devices()
    if all(workdir.load_plan(path).compilation_cache for path in workdirs):
        compilation_cache.use_cache()
    tell = _show if sys.stderr.isatty() and sharding.is_primary() else None
    if len(workdirs) != 1 or any(getattr(args, name) for name in _THOROUGH):
        return _run_thorough(args, workdirs, settings, tell)
    return _run_usual(args, workdirs[0], settings, tell)


def _run_usual(
    args: argparse.Namespace, directory: Path, settings: "Plan | None", tell: "Tell | None"
) -> int:
    """Evaluates one checkpoint of a run."""
    from cnn_jax.evaluators import of_run
    from cnn_jax.runtime import sharding

    which, split = args.checkpoint or "best", args.split or "test"
    evaluation = of_run.run(
        directory,
        split,
        which,
        args.batch_size,
        tell,
        settings=settings,
        out=args.out,
        show=lambda found: print(_table(_rows(found, split, which)), flush=True),
        trust=args.trust,
        average=args.average,
        confusion=args.confusion,
    )
    if not sharding.is_primary():
        return 0
    return _say_written(_rows(evaluation, split, which), evaluation, args)


def _run_thorough(
    args: argparse.Namespace,
    workdirs: Sequence[Path],
    settings: "Plan | None",
    tell: "Tell | None",
) -> int:
    """Evaluates published weights, ensembles and views, with intervals and calibration."""
    from cnn_jax.evaluators import thorough
    from cnn_jax.evaluators.networks import Networks
    from cnn_jax.runtime import sharding

    names = tuple(filter(None, (args.model or "").split(",")))
    weights = tuple(_listed(args.weights))
    networks = Networks(
        runs=tuple(workdirs),
        weights=weights or names,
        names=names if weights else (),
        checkpoint=args.checkpoint,
        average=args.average,
        trust=args.trust,
        batch_size=args.batch_size,
    )
    asked = {
        field.name: getattr(args, field.name) for field in dataclasses.fields(thorough.Request)
    }
    found = thorough.run(
        networks,
        thorough.Request(**asked),
        settings,
        tell,
        show=lambda found: print(_table(_thorough_rows(found)), flush=True),
    )
    if not sharding.is_primary():
        return 0
    return _say_written(_thorough_rows(found), found, args)


def _say_written(
    rows: dict[str, str], found: "Evaluation | Thorough", args: argparse.Namespace
) -> int:
    """Prints the files that were and were not written; returns the exit status."""
    if found.written:
        rows["written"] = ", ".join(map(str, found.written))
        print(_table(rows).splitlines()[-1])
    for reason in found.unwritten:
        print(f"not written: {errors.printable(reason)}", file=sys.stderr)
    return int(bool(found.unwritten) and args.out is not None)


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("evaluate", __doc__)
    flags.add_network(parser)
    parser.add_argument(
        "--split",
        default="",
        help="train, validation or test (default), as in the run's config; or a stored split or a "
        "slice of one, such as 'test[:50%%]'",
    )
    flags.add_batch_size(
        parser, 0, "over all devices; 0: the config's (default), or 32 for published weights"
    )
    parser.add_argument(
        "--confusion",
        action="store_true",
        help=f"write the confusion matrix of more than {limits.MAX_CONFUSION_CLASSES:,} classes "
        "too, as .npy",
    )
    flags.add_out(parser, "a new .json file for the result, in place of the one in --workdir")
    _add_thorough(parser)
    return parser


def _add_thorough(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("views, calibration and comparison")
    group.add_argument(
        "--views", default="", help="of each image: mirrored, ten_crops, dense or multi_scale"
    )
    group.add_argument(
        "--mean",
        default="",
        help="over networks and views: of their probabilities (default) or logits",
    )
    group.add_argument(
        "--calibrate",
        action="store_true",
        help="fit a temperature on --fit_split and report the calibrated values too",
    )
    group.add_argument(
        "--fit_split", default="", help="a split that is not evaluated; validation for a run"
    )
    group.add_argument(
        "--answers",
        action=flags.StorePath,
        help="a .json list of the right classes of each example, such as ReaL's real.json",
    )
    group.add_argument(
        "--subset",
        default="",
        help="compare some classes only: a file with one on each line, or data for those of the "
        "data set",
    )
    group.add_argument(
        "--against",
        action=flags.StorePath,
        help="the .json file of an earlier result on the same examples, to compare with by "
        "McNemar's test",
    )
    group.add_argument(
        "--csv", action=flags.StorePath, help="a table that gets a line, with timm's columns first"
    )


_THOROUGH = (
    *("weights", "model", "views", "mean", "calibrate", "fit_split"),
    *("answers", "subset", "against", "csv"),
)
_FLAGS = (
    *("--workdir", "--checkpoint", "--average", "--no-average", "--trust", "--confusion"),
    *("--split", "--batch_size", "--out", *(f"--{name}" for name in _THOROUGH)),
)


def _listed(given: Path | None) -> list[Path]:
    """Returns the paths of a flag: those between commas, or one whose name has a comma."""
    if given is None or "," not in str(given) or given.exists():
        return [] if given is None else [given]
    from cnn_jax.runtime import files

    return [files.local(path, "path") for path in str(given).split(",") if path]


def _settings(directory: Path | None, words: Sequence[str]) -> "Plan":
    """Returns the plan of a run, or an empty one, with the values of --config.KEY=VALUE."""
    from cnn_jax import config_files
    from cnn_jax.plan import Plan
    from cnn_jax.runs import workdir

    texts = config_files.parse_overrides(words, _FLAGS)
    if directory is None:
        return config_files.override(Plan(), {"data.source": "auto", **texts})
    settings = workdir.load_plan(directory)
    if "data.source" in texts:  # The run's name and directory belong to its own source.
        section = dataclasses.replace(settings.data, name="", directory="")
        settings = dataclasses.replace(settings, data=section)
    return config_files.override(settings, texts)


def _show(done: int, total: int) -> None:
    end = "\n" if done == total else ""
    print(f"\r{done} of {total} batches", end=end, file=sys.stderr, flush=True)


def _rows(evaluation: "Evaluation", split: str, which: str) -> dict[str, str]:
    """Returns the rows of the printed table, without that of the written files."""
    chosen = {"best": "the best by validation", "last": "the last"}.get(which, "as given")
    examples = int(evaluation.counts.sum())
    rows = {
        "checkpoint": f"step {evaluation.step}, {chosen}",
        **({"weights": evaluation.weights} if evaluation.weights else {}),
        **({"data": evaluation.data} if evaluation.data else {}),
        "split": f"{split}, {examples:,} examples",
        **{name: f"{value:.4f}" for name, value in evaluation.values.items()},
    }
    for name, accuracy in evaluation.class_accuracies.items():
        rows[f"class {name}"] = "no example" if accuracy is None else f"{accuracy:.4f}"
    return rows


def _thorough_rows(found: "Thorough") -> dict[str, str]:
    """Returns the rows of the printed table, without that of the written files."""
    about = found.content
    rows = {
        "model": " + ".join(about["models"]),
        "checkpoint": ", ".join(f"step {step}" for step in about.get("checkpoint_steps", [])),
        "weights": " + ".join(filter(None, about.get("weights", []))),
        "split": f"{about['data']}, {about['split']}, {about['examples']:,} examples",
        "left out": f"{about['left_out']:,} of other classes" if "left_out" in about else "",
        "views": about.get("views", ""),
        "mean": f"of the {about['mean']}" if "mean" in about else "",
    }
    rows = {name: text for name, text in rows.items() if text}
    ends = about["intervals"]
    for name in (*("top1", "top5", "nll", "brier", "ece"), *_MACRO):
        if name in about:
            interval = " ({:.4f} to {:.4f})".format(*ends[name]) if name in ends else ""
            rows[name] = f"{about[name]:.4f}{interval}"
    rows["intervals"] = (
        f"{ends['level']:.0%}, {ends['resamples']:,} bootstrap resamples of the examples, seed "
        f"{ends['seed']}"
    )
    rows |= _calibrated(about.get("calibration", {}))
    real = about.get("real", {})
    rows |= {name: f"{real[name]:.4f}" for name in ("real_top1", "real_top5") if name in real}
    rows |= _compared(about.get("against", {}))
    return rows | _classes(found)


_MACRO = ("macro_precision", "macro_recall", "macro_f1")


def _calibrated(found: Mapping[str, Any]) -> dict[str, str]:
    if not found:
        return {}
    names = ("calibrated_nll", "calibrated_brier", "calibrated_ece")
    where = f"fitted on {found['fit_examples']:,} examples of {found['fit_split']}"
    return {
        "temperature": f"{found['temperature']:.4f}, {where}",
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


def _classes(found: "Thorough") -> dict[str, str]:
    if len(found.class_names) > _MOST_CLASSES:
        place = "--out writes" if found.path is None else "the .json file has"
        return {"classes": f"{len(found.class_names):,}; {place} the values of each"}
    rows = {}
    for name, each in found.per_class.items():
        values = [f"{key} {each[key]:.4f}" for key in _OF_CLASS if each[key] is not None]
        rows[f"class {name}"] = ", ".join(values) or "no example"
    return rows


_OF_CLASS = ("precision", "recall", "f1")


def _table(rows: Mapping[str, str]) -> str:
    """Returns one line per row, such as 'top1:  0.9700'."""
    return console.block({f"{name}:": value for name, value in rows.items()})


if __name__ == "__main__":
    console.exit_with(main)
