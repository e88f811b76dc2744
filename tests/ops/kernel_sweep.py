"""Builds `kernel_sweep.cc` and the native kernels with sanitizers, and runs them.

The kernels are called with random geometries: sizes of zero and one, windows larger than the image,
strides larger than the window, odd numbers of channels. A read or a write outside of an array,
undefined behaviour or a wrong number fails.

    python -m tests.ops.kernel_sweep --geometries 500000 --seed 2
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cnn_jax.ops.native import build

_SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
# Not optimised, because the sanitizers multiply the time of compiling.
_FAST_TO_COMPILE = ("-O0", "-march=native")


def compile_sweep(directory: Path, flags: tuple[str, ...] = _FAST_TO_COMPILE) -> Path:
    """Compiles the kernels and the program in `directory`; returns the program.

    Raises:
      OSError: there is no compiler, it fails, or it has no sanitizers.
    """
    command = build.compiler()
    common = ("-std=c++20", "-g1", "-pthread", "-fPIC", *flags)
    kernels = build.compile_objects(
        command, build.sources(".cc"), [*common, *_SANITIZERS], directory
    )
    # The loops of the program itself are optimised.
    program = build.compile_objects(
        command, [Path(__file__).with_suffix(".cc")], [*common, "-O2"], directory
    )
    path = directory / "kernel_sweep"
    linked = [*command, "-pthread", *_SANITIZERS, *kernels, *program, "-o", str(path)]
    build.run([linked], build.COMPILE_SECONDS)
    return path


def run_sweep(
    program: Path, geometries: int, seed: int, missing: int = 0
) -> "subprocess.CompletedProcess[str]":
    """Runs the program; its status is 0 if no kernel had a fault.

    Args:
      program: the program that `compile_sweep` returns.
      geometries: number of geometries.
      seed: seed of the geometries and numbers.
      missing: number of elements by which each array is too short, to test the program itself.
    """
    options = {"UBSAN_OPTIONS": "abort_on_error=1:print_stacktrace=1"}
    return subprocess.run(
        [str(program), str(geometries), str(seed), str(missing)],
        env={**os.environ, **options},
        capture_output=True,
        text=True,
        check=False,
    )


def main() -> int:
    """Compiles and runs the sweep; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--geometries", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--march", default="native", help="x86-64-v3 and x86-64 test vectors of 8 and 4 floats"
    )
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        program = compile_sweep(Path(directory), ("-O1", f"-march={settings.march}"))
        done = run_sweep(program, settings.geometries, settings.seed)
    sys.stdout.write(done.stdout + done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
