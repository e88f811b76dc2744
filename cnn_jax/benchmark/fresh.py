"""Programs to time in a Python process of their own, with its own settings of the allocator."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping

from cnn_jax import errors
from cnn_jax.benchmark import models

_MODULE = "cnn_jax.benchmark.fresh"


@contextlib.contextmanager
def programs(
    case: models.Case, environment: Mapping[str, str]
) -> Iterator[tuple[models.Program, models.Program]]:
    """Compiles a case in a new process, first with an empty compilation cache, then from it.

    The process ends with the context. Nothing in it changes a setting before the first computation.

    Args:
      case: the network, its use and its sizes.
      environment: environment variables beside those of this process.

    Yields:
      The same as `models.compiled_twice`; `run` of either takes a step in that process.

    Raises:
      errors.UserError: the process ended.
    """
    command = [sys.executable, "-m", _MODULE, json.dumps(dataclasses.asdict(case))]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, **environment},
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the process has no pipes")
        requests, answers = process.stdin, process.stdout

        def answer() -> str:
            if line := answers.readline():
                return line
            raise errors.UserError(
                f"the process of {case.label} ended with status {process.wait()}; its message is "
                "above"
            )

        def run() -> object:
            requests.write("\n")
            requests.flush()
            return answer()

        cold, cached = (models.Program(run, **values) for values in json.loads(answer()))
        try:
            yield cold, cached
        finally:
            requests.close()


def main() -> None:
    """Compiles the case in the first argument, then takes a step for each line that it reads."""
    case = models.Case(**json.loads(sys.argv[1]))
    programs = models.compiled_twice(case)
    figures = ("seconds", "bytes", "flops")
    print(json.dumps([{name: getattr(one, name) for name in figures} for one in programs]))
    sys.stdout.flush()
    for _ in sys.stdin:
        programs[1].run()
        print(flush=True)


if __name__ == "__main__":
    main()
