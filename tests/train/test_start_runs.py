"""Tests of `init.weights` with a work directory, and of `init.take`."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import data, errors, plan, predictor, train
from cnn_jax.objectives import Classification
from cnn_jax.runs import logs, workdir
from cnn_jax.train import job as jobs
from cnn_jax.train import start, weights
from tests.caches import share_native_kernels
from tests.toys import CROSS_ENTROPY, Noisy
from tests.train import tiny

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("start"), pytest.mark.usefixtures("shared_programs")]

ROOT = Path(__file__).parents[2]


def settings(**changes: Any) -> plan.Plan:
    return tiny.settings(**{"eval.every_epochs": 0.5, "train.steps": 3, **changes})


def run(directory: Any = None, *, names: Any = "abcd", **changes: Any) -> train.Outcome:
    return train.run(settings(**changes), directory, source=tiny.source(names), progress=False)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run whose average ranks and evaluates."""
    directory = tmp_path_factory.mktemp("runs") / "first"
    run(directory, **{"ema.decay": 0.5, "eval.weights": "average"})
    return directory


def still(first: Path, **changes: Any) -> dict[str, np.ndarray]:
    """Returns the variables at the start of a run that follows `first`, by path."""
    names = changes.pop("names", "abcd")
    given: dict[str, Any] = {"init.weights": str(first), "optim.learning_rate": 0.0}
    # The running statistics of a frozen module stay.
    outcome = run(names=names, **{**given, "train.trainable": "output/bias", **changes})
    return by_path(outcome)


def by_path(outcome: train.Outcome) -> dict[str, np.ndarray]:
    variables = {"params": outcome.params, "batch_stats": outcome.batch_stats}
    return {path: np.asarray(leaf) for path, leaf in weights.by_path(variables).items()}


def check_same(found: dict[str, np.ndarray], expected: Any, paths: list[str] | None = None) -> None:
    theirs = weights.by_path(expected) if "params" in expected else expected
    for path in theirs if paths is None else paths:
        np.testing.assert_array_equal(found[path], theirs[path], err_msg=path)


def best(directory: Path, *, average: bool) -> Any:
    return predictor.restore(directory, average=average).variables


def test_a_run_starts_from_the_best_checkpoint_of_another(first: Path, tmp_path: Path) -> None:
    average, raw = (best(first, average=average) for average in (True, False))
    assert not np.array_equal(average["params"]["conv"]["kernel"], raw["params"]["conv"]["kernel"])
    check_same(still(first), average)
    other = tmp_path / "raw"
    shutil.copytree(first, other)
    content = json.loads((other / workdir.CONFIG).read_text())
    content["eval"]["weights"] = "raw"
    (other / workdir.CONFIG).write_text(json.dumps(content))
    check_same(still(other), raw)


BODY = ["params/conv/kernel", "params/norm/scale", "batch_stats/norm/mean", "batch_stats/norm/var"]
HEAD = ["params/output/kernel", "params/output/bias"]


@pytest.mark.parametrize("names", ["abc", "abdc"])
def test_the_head_is_new_where_the_classes_differ_in_number_or_name(
    first: Path, names: str
) -> None:
    found = still(first, names=names)
    check_same(found, best(first, average=True), BODY)
    # The new head is that of a run from scratch.
    scratch = by_path(run(names=names, **{"optim.learning_rate": 0.0}))
    check_same(found, scratch, HEAD)


@pytest.mark.parametrize(
    ("take", "taken"),
    [
        ("^conv/", ["params/conv/kernel", "params/conv/bias"]),
        # The statistics belong to the module, of which a parameter is taken.
        ("norm/scale$", ["params/norm/scale", "batch_stats/norm/mean", "batch_stats/norm/var"]),
        ("head, bias$", [*HEAD, "params/conv/bias", "params/norm/bias", *BODY[2:]]),
    ],
)
def test_what_is_not_taken_is_initialised_as_from_scratch(
    first: Path, take: str, taken: list[str]
) -> None:
    found = still(first, **{"init.take": take})
    theirs = best(first, average=True)
    check_same(found, theirs, taken)
    scratch = by_path(run(**{"optim.learning_rate": 0.0, "train.trainable": "output/bias"}))
    check_same(found, scratch, [path for path in found if path not in taken])
    assert not np.array_equal(scratch[taken[0]], weights.by_path(theirs)[taken[0]])


def test_statistics_of_a_module_without_parameters_follow_the_module_above() -> None:
    names = ["block/conv/kernel", "other/conv/kernel", "bare"]
    assert start._follows("block/norm/mean", names, {"block/conv/kernel"})
    assert not start._follows("block/norm/mean", names, {"other/conv/kernel"})
    assert start._follows("top/norm/mean", names, {"bare"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"init.take": "("}, r"init\.take '\(' is no regular expression"),
        ({"init.take": "conv, "}, r"init\.take has an empty pattern"),
        ({"init.take": "conw"}, r"init\.take 'conw' matches none of the 6 parameters; nearest: co"),
        ({"model.name": "tests.toys:Own"}, r"network '.*everything:network', not of '.*Own'; set"),
        ({"model.name": ""}, r"is not imported unless .*if you trust it, set model\.name=tests"),
        ({"model.width": 3}, r"'width'"),
    ],
)
def test_mistakes_are_found_before_the_data_set_is_read(
    first: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(data, "open_source", lambda _: pytest.fail("the data set was read"))
    given = settings(**{"init.weights": str(first), **changes})
    with pytest.raises(errors.UserError, match=message):
        train.run(given, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_pattern_of_a_head_of_other_classes_is_refused(first: Path) -> None:
    with pytest.raises(
        errors.UserError, match=r"pattern 'head' matches only the head, such as 'output/"
    ):
        still(first, names="abc", **{"init.take": "conv, head"})


def test_a_directory_that_is_no_run_is_refused(first: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"^init\.weights .*: it is no work directory, and"):
        still(tmp_path)
    with pytest.raises(errors.UserError, match=r"^init\.weights .*config.json cannot be read"):
        still(tmp_path, **{"model.name": ""})
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(errors.UserError, match=r"^init\.weights .* is not a work directory: no c"):
        still(tmp_path)


TAKE: dict[str, Any] = {"init.take": "^conv/, norm", "train.steps": 6, "checkpoint.every_steps": 2}


@pytest.fixture(scope="module")
def whole(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run that takes some parameters of `first`."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(directory, **{"init.weights": str(first), **TAKE})
    return directory


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the log without measured times."""
    times = ("images_per_second", "data_wait", "compile_seconds")
    return [{key: row[key] for key in row if key not in times} for row in logs.read(directory)]


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_stopped_run_ends_with_the_bits_of_a_whole_run(
    first: Path, whole: Path, tmp_path: Path, stop: int
) -> None:
    given = settings(**{"init.weights": str(first), **TAKE})

    def stopped(row: Any) -> bool:
        return row["split"] == "train" and row["step"] == stop

    options: dict[str, Any] = {"source": tiny.source(), "progress": False}
    assert train.run(given, tmp_path, watch=stopped, **options).step == stop
    # Without the weights: a run that continues does not read them.
    moved = first.rename(first.with_name("moved"))
    try:
        train.run(given, tmp_path, **options)
    finally:
        moved.rename(first)
    assert rows(tmp_path) == rows(whole)


def test_a_run_that_lost_its_checkpoints_starts_from_the_same_variables(
    first: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "lost")
    for checkpoint in (tmp_path / "lost" / "checkpoints").iterdir():
        (checkpoint / "sha256.json").write_text("{")
    run(tmp_path / "lost", **{"init.weights": str(first), **TAKE})
    assert rows(tmp_path / "lost") == rows(whole)


KILLED = """
import sys
from pathlib import Path
from cnn_jax.runs import checkpoint
from tests.train import everything, test_start_runs as tests
directory, first, saves = sys.argv[1:]
everything.after(int(saves), checkpoint.Checkpoints, "_add_digests").start()
tests.run(Path(directory), **{"init.weights": first, **tests.TAKE})
"""


@pytest.mark.slow
def test_a_killed_run_ends_with_the_bits_of_a_whole_run(
    first: Path, whole: Path, tmp_path: Path
) -> None:
    share_native_kernels(tmp_path / "cache")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    # Before the first checkpoint is complete, after the second one, and not at all.
    for saves, status in ((0, -signal.SIGKILL), (2, -signal.SIGKILL), (99, 0)):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "parts"), str(first), str(saves)]
        result = subprocess.run(command, cwd=ROOT, env=environment, check=False)
        assert result.returncode == status
    assert rows(tmp_path / "parts") == rows(whole)


def test_another_pattern_is_another_run(first: Path, whole: Path) -> None:
    with pytest.raises(errors.UserError, match=r"init\.take: '\^conv/, norm' there, 'conv' now"):
        run(whole, **{"init.weights": str(first), **TAKE, "init.take": "conv"})


def test_an_empty_name_is_the_network_of_the_run_with_its_options(tmp_path: Path) -> None:
    network = {"model.name": "mlp", "model.widths": (5,), "model.activation": "tanh"}
    run(tmp_path / "first", **network, **{"model.remat": True})
    given: dict[str, Any] = {
        "model.name": "",
        "data.image_size": 0,
        "data.channels": 0,
        "data.resize": "",
        "data.eval_crop": "",
        "init.weights": str(tmp_path / "first"),
    }
    whole = run(tmp_path / "second", **given)
    stored = workdir.load_plan(tmp_path / "second")
    assert stored.model.name == "mlp"
    assert stored.model.options == {"widths": (5,), "activation": "tanh"}
    assert (stored.data.resize, stored.data.eval_crop) == ("pad", "fit")
    assert stored.data.input_shape == (8, 8, 3)
    # The same command continues the run, though its automatic values are stored.
    assert run(tmp_path / "second", **given).params_sha256 == whole.params_sha256
    with pytest.raises(errors.UserError, match=r"model\.widths: \[?\(?5.* there, \(6,\) now"):
        run(tmp_path / "second", **given, **{"model.widths": (6,)})
    # A named network states its options itself.
    named = {**given, "model.name": "mlp", "model.widths": (5,)}
    with pytest.raises(errors.UserError, match=r"mlp with the options .*'tanh'.*set these"):
        run(**named)
    run(**named, **{"model.activation": "tanh"})


def test_a_run_follows_one_with_the_same_objective_object(tmp_path: Path) -> None:
    objective = Classification(Noisy(4), CROSS_ENTROPY)
    given = settings(**{"model.name": "lenet"})
    options: dict[str, Any] = {"source": tiny.source(), "objective": objective, "progress": False}
    first = train.run(given, tmp_path / "first", **options)
    follow = {"init.weights": str(tmp_path / "first"), "optim.learning_rate": 0.0}
    second = train.run(
        settings(**{"model.name": "lenet", **follow, "train.trainable": "output/bias"}), **options
    )
    assert first.best_step
    restored = predictor.restore(tmp_path / "first", objective=objective)
    check_same(by_path(second), restored.variables)
    with pytest.raises(errors.UserError, match=r"init\.weights .* is 'given'"):
        run(**follow)


def test_variables_in_memory_are_given_to_a_job(first: Path) -> None:
    variables = best(first, average=True)
    fitted = weights.Fitted(weights.by_path(variables))
    job = jobs.make(settings(), tiny.source())
    check_same(weights.by_path(start.begin(job, fitted)), variables)
    double = {path: np.asarray(leaf, np.float64) for path, leaf in fitted.variables.items()}
    begun = start.begin(job, weights.Fitted(double))
    assert {np.asarray(leaf).dtype.name for leaf in jax.tree.leaves(begun)} == {"float32"}
    less = {path: leaf for path, leaf in fitted.variables.items() if "norm" not in path}
    with pytest.raises(errors.UserError, match=r"4 arrays differ, such as .* missing there"):
        start.begin(job, dataclasses.replace(fitted, variables=less))


def test_the_choices_are_printed(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"init.weights": str(first), "init.take": "conv", "train.steps": 1}
    train.run(
        settings(**changes, **{"data.std": (1.0,) * 3, "data.mean": (0.5,) * 3}),
        source=tiny.source("abc"),
    )
    lines = capsys.readouterr().err
    assert "the head for 3 classes is new; the weights have a head for 4 classes" in lines
    assert "init.take 'conv' takes 2 of 6 parameter arrays" in lines
    assert "data.std is (1, 1, 1), that of the weights is (0." in lines
    assert "data.resize" not in lines


@pytest.mark.slow
def test_position_embeddings_of_a_run_are_resampled(tmp_path: Path) -> None:
    shape = {"model.width": 8, "model.depth": 1, "model.heads": 2, "model.patch_size": 4}
    network: dict[str, Any] = {"model.name": "vit_tiny_patch16_224", **shape}
    run(tmp_path / "first", **network, **{"train.steps": 1})
    given = {"init.weights": str(tmp_path / "first"), "data.image_size": 16}
    options, found = start.find(settings(**network, **given))
    fitted = start.fit(options, found, "abcd")
    assert fitted.variables["params/pos_embed"].shape == (1, 17, 8)
    assert any("resampled" in note for note in fitted.notes)
