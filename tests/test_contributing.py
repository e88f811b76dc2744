"""The examples of CONTRIBUTING.md, applied to a copy of the package and run."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import orbax.checkpoint as ocp
import pytest

ROOT = Path(__file__).parents[1]
MOST_FILES = 3
TRAIN = """
from cnn_jax import plan, train
given = {
    "data": {"source": "stripes", "image_size": 16, "augment": (("random_light", {}),)},
    "model": {"name": "mlp", "widths": (8,)},
    "optim": {"name": "yogi", "learning_rate": 1e-3},
    "train": {"batch_size": 8, "steps": 20, "count_classes": True},
    "eval": {"monitor": "confidence/mean"},
}
train.run(given, "run")
"""


def examples() -> list[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    return re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_each_example_touches_at_most_three_files() -> None:
    counts = [example.count("\ndiff --git") + 1 for example in examples()]
    assert len(counts) == 5
    assert max(counts) <= MOST_FILES


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """A copy of the package to which all examples are applied."""
    for name in ("cnn_jax", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for example in examples():
        command = ["git", "apply", "-"]
        subprocess.run(command, input=example, cwd=tmp_path, text=True, check=True)
    return tmp_path


def test_the_examples_apply_together(changed: Path) -> None:
    for path in changed.rglob("*.py"):
        original = ROOT / path.relative_to(changed)
        if not original.exists() or path.read_bytes() != original.read_bytes():
            ast.parse(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_examples_train_together(changed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(changed), "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", TRAIN], cwd=changed, env=environment, check=True)
    lines = (changed / "run" / "metrics.jsonl").read_text().splitlines()
    (test,) = (row for row in map(json.loads, lines) if row["split"] == "test")
    assert test["top1"] == 1.0  # The stripes were learned, with all five examples at work.
    assert 0.5 < test["confidence/mean"] <= 1.0
    # The counts are in the checkpoint.
    saved = ocp.PyTreeCheckpointHandler().metadata(changed / "run" / "checkpoints/20/state").tree
    assert saved["extra"]["seen"].shape == (2,)
