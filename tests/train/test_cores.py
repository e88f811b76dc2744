"""Tests of a run that continues on another number of cores."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax import plan, train
from cnn_jax.runtime import threads
from configs import quickstart

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
from tests.train.test_cores import settings
from cnn_jax import train
print("digest", train.run(settings(), sys.argv[1]).params_sha256)
"""


def settings() -> plan.Plan:
    """Returns a run of LeNet, whose dense layers XLA splits among its threads."""
    config = quickstart.get_config()
    config.train.steps, config.train.steps_per_call = 4, 1
    config.optim.schedule.warmup_epochs = 0.0
    config.log.every_steps = config.checkpoint.every_steps = 2
    return plan.read(config)


@pytest.mark.slow
@pytest.mark.skipif(threads.cores() == 1, reason="requires two cores")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="requires os.sched_setaffinity")
def test_a_run_continues_on_one_core_to_the_same_bits(tmp_path: Path) -> None:
    whole = train.run(settings(), progress=False)
    train.run(settings(), tmp_path, watch=lambda row: row["step"] == 2, progress=False)
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "resuming at step 2 of 4" in result.stderr
    assert f"\nthreads of XLA: {threads.number()}, as before" in result.stderr
    assert re.findall("digest (.*)", result.stdout) == [whole.params_sha256]
