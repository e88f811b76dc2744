r"""How fast this machine runs the parts of the package.

ops: each convolution and pooling of `cnn_jax.ops`, forward and with either gradient, against
plain XLA and, if it is installed, torch in the better of its two memory formats:

    python -m cnn_jax.benchmark ops --against=torch

All contenders of a line take turns in one process; a figure is the median of the rounds, a ratio
the quotient of two medians. Above 1, `ours/...` means that ours is slower.
"""

import argparse
import csv
import platform
import sys
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from cnn_jax import cli, errors, memory
from cnn_jax.benchmark import ops, timing, torch_ops

_COLUMNS = ("case", "pass", "ours ms", "ours/XLA", "in scan/ours", "torch", "ours/torch")


def run_ops(names: list[str], rounds: int, torch: bool, csv_path: Path | None) -> None:
    """Print a table of the cases called `names`, and write it to `csv_path` too.

    Raises:
      ValueError: a name is unknown, or torch is asked for and not installed.
    """
    for name in names:
        if name not in ops.CASES:
            raise errors.unknown("case", name, ops.CASES)
    if rounds < 1:
        raise errors.UserError(f"--rounds must be at least 1, got {rounds}")
    versions = [f"jax {jax.__version__}", *([torch_ops.version()] if torch else [])]
    print(f"{platform.machine()} {_processor()}; {', '.join(versions)}; {rounds} rounds\n")
    print(_line(_COLUMNS), _line(["---"] * len(_COLUMNS)), sep="\n")
    rows = []
    lines = [
        (name, what)
        for name in names
        for what in ops.PASSES
        if what != ops.PASSES[1] or not ops.CASES[name].is_pooling
    ]
    per_line = (5 if torch else 3) * rounds
    with tqdm(total=len(lines) * per_line, unit="turn", file=sys.stderr) as progress:
        for name, what in lines:
            rows.append(_row(name, what, rounds, torch, progress))
            progress.write(_line(rows[-1]), file=sys.stdout)
    if csv_path is not None:
        with csv_path.open("x", newline="") as file:
            csv.writer(file).writerows([_COLUMNS, *rows])


def _row(name: str, what: str, rounds: int, torch: bool, progress: "tqdm[Any]") -> list[str]:
    case = ops.CASES[name]
    contenders = ops.contenders(case, what)
    if torch:
        contenders |= torch_ops.contenders(case, what)
    seconds = {
        contender: result.median
        for contender, result in timing.interleaved(contenders, rounds, progress.update).items()
    }
    ours = seconds["ours"]
    row = [
        name,
        what,
        f"{1e3 * ours:.1f}",
        f"{ours / seconds['XLA']:.2f}",
        f"{seconds['in scan'] / ops.SCAN_STEPS / ours:.2f}",
    ]
    if not torch:
        return [*row, "", ""]
    best = min((key for key in seconds if key.startswith("torch")), key=seconds.__getitem__)
    return [*row, best.removeprefix("torch "), f"{ours / seconds[best]:.2f}"]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    models = [
        line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line
    ]
    return f"{models[0] if models else platform.processor()}, {len(models)} cores"


def main() -> int:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m cnn_jax.benchmark", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("ops", help="the operations of cnn_jax.ops")
    command.add_argument("--against", choices=["torch"], help="compare with torch too")
    command.add_argument(
        "--cases",
        nargs="+",
        default=list(ops.CASES),
        metavar="CASE",
        help=f"default: all of {', '.join(map(repr, ops.CASES))}",
    )
    command.add_argument("--rounds", type=int, default=7, help="default: 7")
    command.add_argument("--csv", type=Path, help="write the table to this new file as well")
    args = parser.parse_args()
    if args.csv is not None and args.csv.exists():
        raise errors.UserError(f"{args.csv} exists; it is not overwritten")
    memory.keep()
    run_ops(args.cases, args.rounds, args.against == "torch", args.csv)
    return 0


if __name__ == "__main__":
    cli.exit_with(main)
