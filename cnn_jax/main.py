"""Trains the network of a config, or continues a run that was stopped.

  python -m cnn_jax.main --config=FILE[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...]
  python -m cnn_jax.main --extend=OLD_DIR --workdir=DIR --config.train.epochs=EPOCHS

FILE may be the name of a config that comes with cnn_jax, such as quickstart. The second command
continues a finished run for longer, in a new work directory. Every key of a config can be set on
the command line; `--help` shows examples.
"""

import argparse
import contextlib
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from cnn_jax import config_files, errors, plan
from cnn_jax.runtime import console, files, flags, imports

if TYPE_CHECKING:
    from cnn_jax.train import Outcome

_FLAGS = ("--help", "--config", "--workdir", "--extend", "--trust", "--print_config")
_USAGE = "python -m cnn_jax.main --config=FILE[:VARIANT] [--workdir=DIR] [--config.KEY=VALUE ...]"
_HELP = """
keys:
  --config.KEY=VALUE    set a key of the config, such as --config.train.epochs=5; all keys with
                        their defaults and comments: add --print_config;
                        other keys of the section model are options of the network

examples:
  python -m cnn_jax.main --config=configs/quickstart.py
  python -m cnn_jax.main --config=quickstart
  python -m cnn_jax.main --config=configs/quickstart.py --workdir=runs/tanh \\
    --config.model.activation=tanh --config.optim.learning_rate=0.02
  python -m cnn_jax.main --config=configs/resnet50.py:smoke
  python -m cnn_jax.main --extend=runs/tanh --workdir=runs/longer --config.train.epochs=300

Ctrl-C or SIGTERM saves a checkpoint and stops the run. To continue it, repeat the command with its
--workdir. Exit status: 0 at the end of the run, 1 after an error, 130 after Ctrl-C, 143 after
SIGTERM.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with `argv`, or with the arguments of the process.

    Returns:
      The exit status.

    Raises:
      UserError: a flag, the config, the data or the work directory is not allowed, or the run
        diverged.
    """
    args, others = _parser().parse_known_args(argv)
    settings = _settings(args, config_files.parse_overrides(others, _FLAGS))
    if args.print_config:
        print(config_files.describe(settings))
        return 0
    # JAX is imported here, so that --help and mistakes in a config are answered at once.
    from cnn_jax import train
    from cnn_jax.runtime import determinism, sharding

    sharding.start()
    if settings.runtime.deterministic:
        determinism.enable()  # `train.run` comes later than the start of JAX in `_claimed`.
    with _directory(args) as directory, _trusted(args, directory, settings):
        outcome = train.run(settings, directory)
    if sharding.is_primary():
        _report(outcome, directory)
    return 128 + outcome.signal if outcome.signal else 0


def _settings(args: argparse.Namespace, overrides: dict[str, str]) -> plan.Plan:
    """Returns the config of --config, or else of a run.

    The run is that in --workdir, or that in --extend if --workdir is new.

    Raises:
      UserError: no config is given, or the config has mistakes.
    """
    if args.extend is not None:
        overrides["init.extend"] = str(args.extend)
    if args.config is not None:
        return config_files.override(plan.read(config_files.load(args.config)), overrides)
    if args.extend is None:
        raise errors.UserError("--config is missing; try --config=quickstart")
    from cnn_jax.runs import workdir

    own = files.local(args.workdir, "--workdir") if args.workdir else args.extend
    holder = own if os.path.lexists(own / workdir.CONFIG) else workdir.last_phase(args.extend)
    return config_files.override(workdir.load_plan(holder), overrides)


def _trusted(
    args: argparse.Namespace, directory: Path, settings: plan.Plan
) -> contextlib.AbstractContextManager[None]:
    """Returns a context for the run.

    If the config comes from a work directory, no module is imported from there, unless --trust is
    given.
    """
    if args.trust or args.config is not None:
        return contextlib.nullcontext()
    return imports.outside([args.extend, directory, settings.data.directory])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise errors.UserError(f"{message}; see --help")

    def format_help(self) -> str:
        return f"{super().format_help()}\nconfigs:\n{config_files.overview()}\n"


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        usage=_USAGE,
        description="Trains the network of a config, or continues a run that was stopped.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="FILE[:VARIANT]",
        help="the config file, or the name of a config that comes with cnn_jax, such as "
        "quickstart; the variant smoke of any config takes a few steps on tiny generated images",
    )
    parser.add_argument(
        "--workdir", metavar="DIR", help="the work directory of the run; default: runs/CONFIG-TIME"
    )
    parser.add_argument(
        "--extend",
        metavar="DIR",
        action=flags.StorePath,
        help="continue the finished run in DIR for longer, in a new --workdir; without --config, "
        "with the config of that run",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="of --extend without --config: also import modules that the config names and that lie "
        "in a work directory or in data.directory; their code is executed",
    )
    parser.add_argument(
        "--print_config",
        action="store_true",
        help="print every key with its value, default and comment, and start nothing",
    )
    return parser


@contextlib.contextmanager
def _directory(args: argparse.Namespace) -> Iterator[Path]:
    """Yields the work directory: that of --workdir, or one that no other process gets.

    After an error, a directory of the second kind is removed if it is empty.
    """
    if args.workdir:
        yield files.local(args.workdir, "--workdir")
        return
    stem = config_files.find(args.config)[0].stem if args.config else args.extend.absolute().name
    directory = _claimed(Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        yield directory
    except Exception:
        with contextlib.suppress(OSError):
            directory.rmdir()
            directory.parent.rmdir()
        raise


def _claimed(directory: Path) -> Path:
    """Creates a directory and returns its path, with '-2', '-3' and so on if the name is taken.

    With several processes, returns `directory` itself, because all processes must use one name.
    """
    import jax

    from cnn_jax.runtime import sharding

    sharding.check_devices()
    if jax.process_count() > 1:
        return directory
    path, number = directory, 1
    while True:
        try:
            path.mkdir(parents=True)
            return path
        except OSError:
            if not os.path.lexists(path):
                return path  # `train.run` says why it cannot be made.
        number += 1
        path = directory.with_name(f"{directory.name}-{number}")


def _report(outcome: "Outcome", directory: Path) -> None:
    quoted = errors.printable(shlex.quote(str(directory)))
    if outcome.params_sha256:
        for name, value in outcome.test.items():
            print(f"test {errors.printable(name)}: {value:.4f}")
        print(f"params_sha256: {outcome.params_sha256}")
        if outcome.early:
            print(
                f"early stopping at step {outcome.step}; the best checkpoint is that of step "
                f"{outcome.best_step}"
            )
        print("These values belong to the final parameters (checkpoint 'last').")
        print("The digest repeats only with the same versions and machine.")
        print(f"evaluate: python -m cnn_jax.evaluate --workdir={quoted} --checkpoint=last")
        print(f"predict:  python -m cnn_jax.predict --workdir={quoted} IMAGE...")
    else:
        print(f"stopped and saved at step {outcome.step}; to continue, repeat the command with")
        print(f"  --workdir={quoted}")
    print(f"work directory: {errors.printable(directory)}")


if __name__ == "__main__":
    console.exit_with(main)
