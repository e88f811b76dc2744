"""The README's first command does what the README says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_first_command_of_the_readme_reaches_97_percent(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    command = re.search(r"&& python (-m cnn_jax\.main .*)", readme)
    assert command is not None
    result = subprocess.run(
        [sys.executable, *shlex.split(command[1]), f"--workdir={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    accuracy = re.search(r"test top1: (0\.\d+)", result.stdout)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.97
    assert (tmp_path / "curves.png").stat().st_size > 0
    assert "step 3000/3000, loss" in result.stderr  # a progress line: no terminal
