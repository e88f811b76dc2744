"""Train, or continue, the run of a config.

  python -m cnn_jax.main --config=configs/quickstart.py [--workdir=DIR] [--config.KEY=VALUE ...]

The same command on the same work directory continues a run that was stopped. Every key of a config
can be set on the command line; configs/base.py lists them. `--config=FILE:smoke` tries a config for
a few steps on made-up images.
"""

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from cnn_jax import errors, train
from cnn_jax.runtime import compilation_cache, console, malloc, sharding

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "The config's file; any of its keys can be set by --config.SECTION.KEY=VALUE.",
    # base.py locks the config itself, all but the options of the network.
    lock_config=False,
    accept_new_attributes=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the run lives; by default runs/CONFIG-TIME, a new one."
)


def main(argv: Sequence[str]) -> int:
    """Entry point of the command line, after the flags are parsed."""
    if len(argv) > 1:
        raise errors.UserError(f"unexpected argument {argv[1]!r}; flags begin with --")
    config = _CONFIG.value
    if config is None:
        raise errors.UserError("--config is missing; try --config=configs/quickstart.py")
    try:
        config.lock()
    except OSError as error:  # It is only now that a file that cannot be loaded shows itself.
        raise errors.UserError(str(error.__cause__)) from error
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every file that it renames.
    malloc.keep()
    sharding.start()
    if config.compilation_cache:
        compilation_cache.use_cache()
    directory = Path(_WORKDIR.value) if _WORKDIR.value else _new_directory()
    outcome = train.run(config, directory)
    if sharding.is_primary():
        _report(outcome, directory)
    return 128 + signal.SIGINT if outcome.signal == signal.SIGINT else 0


def _new_directory() -> Path:
    stem = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    return Path("runs") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _report(outcome: train.Outcome, directory: Path) -> None:
    if outcome.params_sha256:
        for name, value in outcome.test.items():
            print(f"test {name}: {value:.4f}")
        print(f"params_sha256: {outcome.params_sha256}")
        print(f"evaluate: python -m cnn_jax.evaluate --workdir={directory}")
        print(f"predict:  python -m cnn_jax.predict --workdir={directory} IMAGE...")
    else:
        print(f"stopped and saved at step {outcome.step}; to continue, repeat the command with")
        print(f"  --workdir={directory}")
    print(f"work directory: {directory}")


def _parse_flags(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    # What config_flags lets through for a key or section that the config does not have.
    except (AttributeError, KeyError, OSError) as error:
        message = error.args[0] if isinstance(error, KeyError) else error
    except flags.Error as error:
        message = _own_error(error) or error
    print(f"error: {message}\nSee --help, and configs/base.py for every key.", file=sys.stderr)
    sys.exit(1)


def _own_error(error: BaseException | None) -> errors.UserError | None:
    """What a config file itself objected to, without the traceback that is put around it."""
    found = None
    while error is not None:
        found = error if isinstance(error, errors.UserError) else found
        error = error.__context__
    return found


if __name__ == "__main__":
    console.exit_with(lambda: app.run(main, flags_parser=_parse_flags))
