"""Write the report of a run, or compare runs: one HTML page that opens without internet.

  python -m cnn_jax.report --workdir=DIR [--split=test] [--checkpoint=best|last|STEP]

writes DIR/report.html: curves, config, scores, confusion matrix, confident errors and likely label
errors with Grad-CAM, calibration, classes, gaps between training, validation and test error, the
command and the environment. DIR/report.json has the scores, the gaps and the errors. Parts that are
missing, as in an unfinished run, are named, and the rest is reported.

The network is evaluated unless the work directory has an evaluation of the split and the
checkpoint; the result is stored as by `cnn_jax.evaluate --calibrate`. An existing report in DIR is
replaced; a file of --out is not.

  python -m cnn_jax.report --workdir=DIR,DIR2,DIR3 [--out=FILE.html]

writes DIR/comparison.html: the final figures of all runs in one table, their curves overlaid, the
differences of their configs, and McNemar's test between runs with a stored outcome of each example.
No network is evaluated.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from cnn_jax import errors
from cnn_jax.runtime import console, flags


def main() -> int:
    """Runs the command line."""
    args = _parser().parse_args()
    workdirs = flags.listed(args.workdir)
    if len(workdirs) > 1:
        return _compare(workdirs, args)
    # Imported here, so that --help and mistakes in the flags answer at once.
    from cnn_jax import report
    from cnn_jax.runtime import compilation_cache, sharding

    wanted = report.Wanted(
        split=args.split or "test",
        checkpoint=args.checkpoint or "best",
        average=args.average,
        trust=args.trust,
        batch_size=args.batch_size,
        human_error=args.human_error,
    )
    sharding.start()
    sharding.check_devices()
    if _may_cache(args.workdir):
        compilation_cache.use_cache()
    show = functools.partial(console.show_count, "batches")
    tell = show if sys.stderr.isatty() else None
    found = report.write(args.workdir, wanted, out=args.out, tell=tell)
    for gap in found.missing:
        print(errors.printable(f"missing: {gap['part']}: {gap['reason']}"), file=sys.stderr)
    print(errors.printable(str(found.path)))
    return 0


def _may_cache(directory: Path) -> bool:
    """Returns True if the config of a run allows the compilation cache; False if it is damaged."""
    from cnn_jax.runs import workdir

    try:
        return workdir.load_plan(workdir.last_phase(directory)).compilation_cache
    except errors.UserError:
        return False


def _compare(workdirs: Sequence[Path], args: argparse.Namespace) -> int:
    """Writes the comparison of runs."""
    for name in ("split", "checkpoint", "average", "trust", "human_error", "batch_size"):
        if getattr(args, name):
            raise errors.UserError(
                f"--{name} is for the report of one run, and --workdir names {len(workdirs)}; "
                "leave one of them out"
            )
    from cnn_jax.report import comparison

    print(errors.printable(str(comparison.write(workdirs, args.out))))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = flags.make_parser("report", __doc__)
    flags.add_run(parser, required=True)
    parser.add_argument(
        "--split",
        default="",
        help="train, validation or test (default), as in the run's config; or a slice of a stored "
        "split, such as 'test[:50%%]'",
    )
    parser.add_argument(
        "--human_error",
        type=float,
        help="the error of people on this task, such as 0.02, for the avoidable bias",
    )
    flags.add_batch_size(
        parser, 0, "of the evaluation, over all devices; 0: the config's (default)"
    )
    flags.add_out(parser, "a new .html file, in place of the one in the first work directory")
    return parser


if __name__ == "__main__":
    console.exit_with(main)
