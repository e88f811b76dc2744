"""Examines the installation and the machine, and says the next step for each fault.

  python -m cnn_jax.doctor [--json=FILE]

It prints versions, settings, cores and memory, disks, NVIDIA's driver, JAX's devices, the native
kernels and the caches, and checks a sum over all devices. Each line has a level: ok; note, for
something that costs speed or space; problem, for something that prevents training or the use of a
device. The exit status is 1 if there is a problem. It takes a few seconds.

--json=FILE writes the findings to a file, for a bug report. It holds no user name, and of the
environment only the variables of JAX, XLA and cnn_jax that the part 'settings' lists.

In Python: `doctor.examine()` returns the findings as a list.
"""

import itertools
from collections.abc import Iterator

from cnn_jax.doctor import examination, isolated, report
from cnn_jax.doctor.findings import Finding, Level
from cnn_jax.runtime import console, files, flags


def main() -> int:
    """Runs the command with the arguments in `sys.argv` and returns the exit status."""
    parser = flags.make_parser("doctor", __doc__)
    parser.add_argument(
        "--json", metavar="FILE", action=flags.StorePath, help="also write the findings to a file"
    )
    args = parser.parse_args()
    found: list[Finding] = []
    for line in report.lines(_kept(found)):
        print(line, flush=True)
    print(f"\n{report.summary(found)}")
    if args.json is not None:
        files.write(args.json, report.to_json(found))
    return int(any(each.level is Level.PROBLEM for each in found))


def _kept(found: list[Finding]) -> Iterator[Finding]:
    """Yields the findings and adds them to a list."""
    for each in itertools.chain(examination.without_jax(), isolated.findings()):
        found.append(each)
        yield each


if __name__ == "__main__":
    console.exit_with(main)
