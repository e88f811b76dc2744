"""Tests of the benchmark of networks: its programs, its figures and its error messages."""

import csv
import dataclasses
import functools
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.benchmark import (
    __main__,
    compare_models,
    fresh,
    models,
    plots,
    profiling,
    timing,
    torch_models,
)
from cnn_jax.runtime import malloc

TRAIN = models.Case("lenet", "train", "float32", batch_size=4)
LOOP = models.Case("mlp", "loop", "float32", batch_size=4)
INFER = models.Case("lenet", "infer", "float32", batch_size=4)
# C1 and C3, C5, F6 and the output: H'W'C'CK^2, and inputs times outputs.
LENET_MULTIPLY_ADDS = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 6 * 25 + 400 * 120 + 120 * 84 + 84 * 10


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cnn_jax.benchmark", "models", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.mark.parametrize(
    "case", [pytest.param(TRAIN, marks=pytest.mark.slow), INFER], ids=lambda case: case.mode
)
def test_ours_and_plain_xla_give_equal_results(case: models.Case) -> None:
    ours, plain = (models.program(case, plain=plain) for plain in (False, True))
    for left, right in zip(jax.tree.leaves(ours.run()), jax.tree.leaves(plain.run()), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)


def test_training_steps_update_the_parameters() -> None:
    def first_leaf(case: models.Case, params: Callable[[Any], Any]) -> list[np.ndarray]:
        program = models.program(case)
        return [np.array(jax.tree.leaves(params(program.run()))[0]) for _ in range(2)]

    for first, second in (
        first_leaf(TRAIN, lambda result: result[0].params),
        first_leaf(LOOP, lambda result: result[0][0]),
    ):
        assert not np.array_equal(first, second)


@pytest.mark.slow
def test_a_new_process_takes_steps_and_reports_its_mistakes(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with fresh.programs(LOOP, {malloc.SWITCH: "0"}) as (cold, cached):
        assert cold.bytes == cached.bytes > 0
        assert cold.seconds > 0
        assert cached.run() == cached.run() == "\n"
    wrong = dataclasses.replace(LOOP, dtype="float8")
    with (
        pytest.raises(errors.UserError, match="mlp@4 ended with status 1"),
        fresh.programs(wrong, {}),
    ):
        pass
    assert "float8" in capfd.readouterr().err


def test_operation_count_equals_the_textbook_formula() -> None:
    assert INFER.operations() == 2 * 4 * LENET_MULTIPLY_ADDS
    assert TRAIN.operations() == 3 * INFER.operations()
    assert LOOP.operations() == dataclasses.replace(LOOP, mode="train").operations()


@pytest.mark.slow
def test_second_compilation_hits_the_cache_and_restores_the_settings() -> None:
    before = dict(jax.config.values)
    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    cold, cached = models.compiled_twice(INFER)
    jax.monitoring.clear_event_listeners()
    assert any("cache_hit" in event for event in events)
    assert dict(jax.config.values) == before
    assert cold.bytes == cached.bytes > 4 * 32 * 32 * 4
    np.testing.assert_array_equal(cold.run(), cached.run())


def test_speedups_are_ratios_of_medians_against_the_faster_torch_format() -> None:
    seconds = {
        "ours": (1, 2, 9),
        "XLA": (8, 8, 8),
        "malloc": (6, 5, 4),
        "torch contiguous": (4, 4, 5),
    }
    timings = {name: timing.Timing(values) for name, values in seconds.items()}
    timings["torch channels_last"] = timing.Timing((3.0, 1.0, 3.0))
    comparison = compare_models.Comparison(INFER, 1.0, 1.0, 0, timings, {})
    assert comparison.torch == "torch channels_last"
    assert comparison.speedups == {"torch": 1.5, "XLA": 4.0, "malloc": 2.5}


def test_profile_ranks_kinds_of_operation_by_time(tmp_path: Path) -> None:
    matrix = jnp.eye(512)
    # Enough products to take over 90 % of the time even on a busy machine.
    products = jax.jit(lambda x: functools.reduce(lambda y, _: y @ x, range(30), x))
    milliseconds = profiling.trace(
        lambda: jax.block_until_ready(products(matrix)), tmp_path / "trace"
    )
    assert next(iter(milliseconds.values())) > 0.9 * sum(milliseconds.values()) > 0
    assert list(milliseconds)[-1] == profiling.OTHERS


@pytest.mark.slow
def test_command_prints_and_writes_the_table_and_plots_it(
    tmp_path: Path, exit_status: Callable[..., int | str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: tmp_path / name for name in ("csv", "plot.png", "profile")}
    flags = (f"--{name.partition('.')[0]}={path}" for name, path in paths.items())
    result = run(
        "--models=mlp@2,mlp@3,lenet", "--mode=infer", "--against=xla", "--rounds=1", *flags
    )
    assert result.returncode == 0, result.stderr
    rows = list(csv.DictReader(paths["csv"].read_text().splitlines()))
    expected = [("mlp", "2"), ("mlp", "3"), ("lenet", "16")]
    assert [(row["model"], row["batch"]) for row in rows] == expected
    assert all(float(row["images/s"]) > 0 and float(row["speedup over XLA"]) > 0 for row in rows)
    assert "infer, float32: geometric mean of the speedup over XLA: " in result.stdout
    assert paths["plot.png"].read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in paths["profile"].iterdir()} == {
        "mlp@2-infer-float32",
        "mlp@3-infer-float32",
        "lenet@16-infer-float32",
    }
    flag = f"--profile={paths['profile']}"
    assert exit_status(__main__.main, "models", "--models=lenet", flag) == 1
    assert f"{paths['profile']} already exists; choose a new path" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--models=lenett"], "unknown model 'lenett'; did you mean 'lenet'"),
        (
            ["--models=lenet@many"],
            "--models: 'many' in 'lenet@many' is not a batch size; write NAME",
        ),
        (["--models=lenet", "--batch=0"], "--batch must be at least 1, got 0"),
        (["--models=lenet", "--mode=training"], "unknown mode 'training'"),
        (["--models=lenet", "--dtype=float8"], "float8"),
        (["--models=lenet", "--against=keras"], "unknown opponent 'keras'"),
        (["--models=lenet", "--plot=plot.png"], "--plot needs --against with some of torch, xla"),
        (["--models=lenet", "--mode=loop", "--profile=new"], "--mode=loop runs in another"),
        (["--models=lenet", "--rounds=0"], "--rounds must be at least 1, got 0"),
        (["--models=lenet", "--image_size=-1"], "--image_size must be at least 1, or 0 for the"),
        (["--models=lenet", "--channels=-1"], "--channels must be at least 1, or 0 for the"),
        (["--models=tests.toys:Own"], "no published size; give --image_size and --channels"),
        (["--models=tests.toys:No", "--image_size=8", "--channels=2"], "has no attribute 'No'"),
        (["--models=vgg11", "--image_size=16"], "at least 32x32 pixels"),
    ],
)
def test_invalid_flags_raise_before_anything_is_timed(
    flags: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", "models", *flags])
    with pytest.raises(errors.UserError, match=re.escape(message)):
        __main__.main()
    assert capsys.readouterr().out == ""


def test_a_network_of_the_user_is_timed() -> None:
    case = models.Case("tests.toys:Own", "infer", "float32", 4, image_size=8, channels=2)
    models.check(case)
    assert case.image_shape == (8, 8, 2)
    assert case.operations() == 2 * 4 * 8 * 8 * 2 * 10
    models.program(case).run()


@pytest.mark.parametrize("missing", ["torch", "torchvision", "timm"])
def test_missing_opponent_libraries_are_reported_with_the_pip_command(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(errors.UserError, match="run: pip install torch torchvision timm"):
        torch_models.version()


def test_speedups_are_plotted_for_each_opponent(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    groups = {"train": {"torch": {"lenet@4": 1.5}, "XLA": {"lenet@4": 0.5}}}
    plots.speedups(groups, path)
    assert path.read_bytes().startswith(b"\x89PNG")
