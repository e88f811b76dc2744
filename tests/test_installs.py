"""Tests that pip finds a wheel of every requirement for systems on which no test can run.

pip takes the platform of wheels from its options, but evaluates environment markers, such as
`sys_platform != "win32"`, for the system that it runs on. So `PIP` gives it the other environment.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).parents[1] / "requirements.txt"
PIP = """
import json, sys
from pip._vendor.packaging import markers
environment = markers.default_environment() | json.loads(sys.argv.pop(1))
markers.default_environment = lambda: environment
from pip._internal.cli.main import main
sys.exit(main())
"""
PYTHON = {
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "python_version": "3.13",
    "python_full_version": "3.13.0",
    "implementation_version": "3.13.0",
}
WINDOWS = {
    "os_name": "nt",
    "sys_platform": "win32",
    "platform_system": "Windows",
    "platform_machine": "AMD64",
}
MACOS = {
    "os_name": "posix",
    "sys_platform": "darwin",
    "platform_system": "Darwin",
    "platform_machine": "arm64",
}
LINUX = {
    "os_name": "posix",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "aarch64",
}


def pip(*arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Runs pip; markers are evaluated for `environment`."""
    values = json.dumps(dict(environment or {}))
    done = subprocess.run(
        [sys.executable, "-c", PIP, values, *arguments, "--quiet", "--disable-pip-version-check"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a wheel of promise, which TFDS needs. PyPI has its sources only."""
    directory = tmp_path_factory.mktemp("wheels")
    pip("wheel", "promise", "--no-deps", f"--wheel-dir={directory}")
    (wheel,) = directory.iterdir()
    assert wheel.name.endswith("-none-any.whl")
    return directory


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "platforms", "absent"),
    [
        pytest.param(WINDOWS, ["win_amd64"], {"array-record", "uvloop"}, id="windows"),
        pytest.param(MACOS, ["macosx_14_0_arm64"], {"colorama"}, id="macos"),
        pytest.param(
            LINUX,
            [f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)],
            {"colorama"},
            id="linux",
        ),
    ],
)
def test_every_requirement_has_a_wheel(
    environment: Mapping[str, str],
    platforms: Sequence[str],
    absent: set[str],
    wheels: Path,
    tmp_path: Path,
) -> None:
    """Tests the newest releases, with Python 3.13. `absent` are packages that markers leave out."""
    report = tmp_path / "report.json"
    pip(
        *("install", "--dry-run", "--ignore-installed", f"--requirement={REQUIREMENTS}"),
        *("--only-binary=:all:", f"--find-links={wheels}", f"--target={tmp_path / 'target'}"),
        *("--python-version=3.13", "--implementation=cp", f"--report={report}"),
        *(f"--platform={platform}" for platform in platforms),
        environment=PYTHON | dict(environment),
    )
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {each["metadata"]["name"].lower().replace("_", "-") for each in found}
    assert {"jax", "jaxlib", "flax", "orbax-checkpoint", "filelock", "promise"} <= names
    assert not names & absent
    assert all(each["download_info"]["url"].endswith(".whl") for each in found)
