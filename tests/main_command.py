"""The command line of training in a process of its own, and the names of the configs."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

STEMS = {path.stem for path in (ROOT / "configs").glob("*.py")}
CONFIGS = sorted(STEMS - {"__init__", "base"})  # these two hold no config of their own


def run(
    *arguments: str, cwd: Path = ROOT, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cnn_jax.main", *arguments],
        cwd=cwd,
        env={**ENVIRONMENT, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def config(name: str) -> str:
    return f"--config={ROOT / 'configs' / name}.py:smoke"
