"""Tests of runs in phases."""

import json
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from cnn_jax import errors, plan, predictor, runs, train
from cnn_jax.evaluators import of_run
from cnn_jax.runs import checkpoint, logs, workdir
from cnn_jax.runtime import patterns, seeds
from cnn_jax.train import job, phases, runner, start, state
from tests.train import everything, phased, tiny

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("phases"), pytest.mark.usefixtures("shared_programs")]

FIRST = {"steps": 3, "trainable": "^output/", "optim": {"learning_rate": 0.05}}
SECOND = {"steps": 4, "optim": {"name": "adam", "learning_rate": 0.01}}


def settings(**changes: Any) -> plan.Plan:
    # Validations come only at the end, so that the best checkpoint is the last one.
    own = {"eval.every_epochs": 0.0, "checkpoint.every_steps": 2}
    return tiny.settings(**{**own, **changes})


def run(directory: Path | None, *, watch: Any = None, **changes: Any) -> train.Outcome:
    changes = {"phases": (FIRST, SECOND), **changes}
    return train.run(
        settings(**changes), directory, source=tiny.source(), watch=watch, progress=False
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a complete run in two phases."""
    directory = tmp_path_factory.mktemp("runs") / "whole"
    run(directory)
    return directory


def digests(directory: Path) -> list[str]:
    """Returns the digests of the parameters after each phase."""
    return [row["params_sha256"] for row in logs.read(directory) if row["split"] == logs.FINAL]


def test_phases_are_runs_that_start_from_one_another(whole: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {"train.steps": 3, "train.trainable": "^output/"}
    first = run(tmp_path / "1", phases=(), **values, **{"optim.learning_rate": 0.05})
    second = run(
        tmp_path / "2",
        phases=(),
        seed=seeds.of_phase(0, 2),
        **{"train.steps": 4, "optim.name": "adam", "optim.learning_rate": 0.01},
        **{"init.weights": str(tmp_path / "1")},
    )
    assert digests(whole) == [first.params_sha256, second.params_sha256]
    # Adam has moments of all parameters, and SGD with a frozen part only those of the output.
    memory = run(None)
    assert memory.params_sha256 == second.params_sha256
    assert memory.predictor(tiny.IMAGES[:2]).logits == pytest.approx(
        predictor.load(whole)(tiny.IMAGES[:2]).logits
    )
    places = [(row["step"], row["phase"]) for row in memory.history if row["split"] == "train"]
    assert places == [*((step, 1) for step in (1, 2, 3)), *((step, 2) for step in (4, 5, 6, 7))]
    assert [row["epoch"] for row in memory.history if row["split"] == "train"][-1] == 3.5


def test_each_phase_has_an_optimizer_state_of_what_it_trains(whole: Path) -> None:
    paths = []
    for number in (1, 2):
        folder = workdir.phase(whole, number)
        parts = job.make(workdir.load_plan(folder), tiny.source(), workdir.load_description(folder))
        shape = parts.feed.description.input_shape
        like = state.abstract(parts.objective, parts.optimizer, shape, parts.layout)
        restored = checkpoint.restore(folder / workdir.CHECKPOINTS, 2 + number, like).state
        leaves = jax.tree.leaves_with_path(restored.opt_state)
        paths.append({patterns.path(keys) for keys, leaf in leaves if np.ndim(leaf)})
    momentum = {path.split("/", 1)[1] for path in paths[0]}
    assert momentum == {"trace/output/bias", "trace/output/kernel"}
    assert len(paths[1]) == 2 * 6  # two moments of Adam


def test_a_phased_directory_stands_for_its_last_phase(whole: Path, tmp_path: Path) -> None:
    last = workdir.phase(whole, 2)
    assert workdir.last_phase(whole) == last
    assert workdir.last_phase(last) == last
    expected = predictor.load(last)(tiny.IMAGES[:2]).logits
    np.testing.assert_array_equal(predictor.load(whole)(tiny.IMAGES[:2]).logits, expected)
    found = of_run.run(whole, "validation", source=tiny.source())
    assert found.values == of_run.run(last, "validation", source=tiny.source()).values
    still = {"train.steps": 1, "optim.learning_rate": 0.0, "train.trainable": "output/bias"}
    third = run(None, phases=(), **{"init.weights": str(whole)}, **still)
    assert third.params_sha256 == digests(whole)[1]
    given = plan.to_dict(workdir.load_plan(last)) | {"train.steps": 6, "init.extend": str(whole)}
    longer = train.run(given, tmp_path, source=tiny.source(), progress=False)
    assert [row["step"] for row in longer.history if row["split"] == "train"] == [5, 6]
    rows = runs.read(whole)
    assert {(row["run"], row["phase"]) for row in rows} == {(".", 1), (".", 2)}
    assert [row["step"] for row in rows] == [row["step"] for row in logs.read(whole)]


# Stops after lines of the log: in each phase, and at the end of the first one.
STOPS = {"first": (2, "train"), "end": (3, "validation"), "second": (1, "train")}


@pytest.mark.parametrize("stop", STOPS)
def test_a_stopped_run_ends_with_the_bits_of_a_whole_run(
    whole: Path, tmp_path: Path, stop: str
) -> None:
    starts = 0
    while not (outcome := run(tmp_path, watch=_watch(STOPS[stop], tmp_path))).params_sha256:
        starts += 1
        assert len(outcome.history) == len(logs.read(tmp_path))
    assert starts == (1 if stop == "end" else 2)
    assert everything.rows(tmp_path) == everything.rows(whole)
    assert [row["step"] for row in outcome.history] == [row["step"] for row in logs.read(whole)]


def _watch(place: tuple[int, str], directory: Path) -> Any:
    """Returns a watch that stops a run the first time that it is at a place of its log."""
    marks = directory.with_name(f"{directory.name}-marks")
    marks.mkdir(exist_ok=True)

    def watch(row: dict[str, Any]) -> bool:
        mark = marks / f"{len(list(directory.glob('phase-*')))}"
        if (row["step"], row["split"]) != place or mark.exists():
            return False
        mark.touch()
        return True

    return watch


def test_a_run_that_fails_between_phases_goes_on_with_the_same_bits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runner._run

    def fail(*arguments: Any, **_: Any) -> Any:
        if isinstance(arguments[0], job.Job) and arguments[0].plan.train.trainable:
            return original(*arguments)  # the first phase
        raise OSError("the disk is gone")

    # Before the second phase, before its first state, and before its first step.
    for owner, name in ((phases, "_following"), (start, "begin"), (runner, "_run")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(OSError, match="the disk is gone"):
                run(tmp_path)
    assert [row["phase"] for row in logs.read(tmp_path)] == [1] * len(
        logs.read(workdir.phase(tmp_path, 1))
    )
    run(tmp_path)
    assert everything.rows(tmp_path) == everything.rows(whole)


@pytest.mark.parametrize(
    "devices",
    [pytest.param(1, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.full)],
)
def test_a_killed_run_ends_with_the_bits_of_a_whole_run(tmp_path: Path, devices: int) -> None:
    module = "tests.train.phased"
    assert everything.start(tmp_path / "whole", devices, module=module) == 0
    for kill in phased.KILLS:
        status = everything.start(tmp_path / "parts", devices, kill, module=module)
        assert status == -signal.SIGKILL, kill
    assert everything.start(tmp_path / "parts", devices, module=module) == 0
    assert everything.rows(tmp_path / "parts") == everything.rows(tmp_path / "whole")
    for number in (1, 2):
        pair = [workdir.phase(tmp_path / name, number) for name in ("parts", "whole")]
        everything.assert_equal_ends(*pair)


@pytest.mark.parametrize(
    ("second", "changes", "message"),
    [
        ({"trainable": "conw"}, {}, r"^phases, entry 2: train\.trainable 'conw' matches none"),
        ({"trainable": "conw"}, {"data.image_size": 0}, r"^phases, entry 2: .* matches none"),
        ({"optim": {"rate_factors": [["x", 2]]}}, {}, r"^phases, entry 2: optim\.rate_factors 'x'"),
        ({"batch_size": 32}, {}, r"^phases, entry 2: train\.batch_size 32 is larger than the 16 "),
        ({"steps": 0, "epochs": 0.1}, {}, r"^phases, entry 2: train\.epochs 0\.1 is less than one"),
        ({"batch_size": 8, "microbatches": 3}, {}, r"^phases, entry 2: train\.microbatches 3"),
        ({"optim": {"name": "addam"}}, {}, r"^phases, entry 2: .*'addam'"),
        ({}, {"init.extend": "runs/x"}, r"init\.extend 'runs/x' continues one run, and the config"),
    ],
)
def test_mistakes_in_any_phase_are_found_before_the_first_step(
    tmp_path: Path, second: Any, changes: dict[str, Any], message: str
) -> None:
    def watch(row: Any) -> bool:
        pytest.fail(f"training has begun: {row}")

    with pytest.raises(errors.UserError, match=message):
        run(tmp_path / "run", watch=watch, phases=(FIRST, {**SECOND, **second}), **changes)
    assert not (tmp_path / "run" / workdir.CONFIG).exists()


def test_another_config_is_refused(whole: Path) -> None:
    with pytest.raises(errors.UserError, match=r"phases, entry 2: train.steps: 4 there, 5 now$"):
        run(whole, phases=(FIRST, {**SECOND, "steps": 5}))
    with pytest.raises(errors.UserError, match=r"phases: .* there, \(\) now"):
        run(whole, phases=())
    with pytest.raises(errors.UserError, match=r"another config"):
        run(workdir.phase(whole, 1))


def test_values_of_a_phase_that_change_nothing_are_not_another_config(whole: Path) -> None:
    again = run(whole, phases=(FIRST, {**SECOND, "eval": {"batch_size": 7}}))
    assert again.params_sha256 == digests(whole)[1]


def test_a_watch_receives_the_number_of_the_phase_and_its_own_steps(whole: Path) -> None:
    seen: list[dict[str, Any]] = []
    run(None, watch=seen.append)
    own = [logs.read(workdir.phase(whole, number)) for number in (1, 2)]
    expected = [(number, row["step"]) for number in (1, 2) for row in own[number - 1]]
    assert [(row["phase"], row["step"]) for row in seen] == expected


def test_the_data_set_is_that_of_the_first_phase(tmp_path: Path) -> None:
    run(tmp_path, watch=lambda row: row["split"] == "validation")
    with pytest.raises(errors.UserError, match=r"labels|content|changed|differ"):
        train.run(
            settings(phases=(FIRST, SECOND)), tmp_path, source=tiny.source(shift=1), progress=False
        )


def test_automatic_values_are_those_of_the_first_phase(tmp_path: Path) -> None:
    automatic: dict[str, Any] = {"data.image_size": 0, "data.channels": 0}
    run(tmp_path, **automatic)
    stored = [workdir.load_plan(workdir.phase(tmp_path, number)) for number in (1, 2)]
    assert stored[0].data == stored[1].data
    assert stored[1].data.input_shape == (8, 8, 3)
    assert len(stored[1].data.mean) == 3
    assert workdir.load_plan(tmp_path).data.image_size == 0
    assert run(tmp_path, **automatic).params_sha256 == digests(tmp_path)[1]


def test_a_value_that_all_phases_set_has_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    both = tuple(
        {**one, "optim": {"learning_rate": 0.1 * number}, "steps": 1}
        for number, one in enumerate((FIRST, SECOND), start=1)
    )
    run(None, phases=both, **{"optim.learning_rate": 0.7, "optim.momentum": 0.5})
    unread = [text for text in caplog.messages if "all phases set it" in text]
    assert unread == ["optim.learning_rate 0.7 has no effect: all phases set it"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (({"seed": 1},), r"phases, entry 1: 'seed' is no key that can differ between phases; allo"),
        (({}, {"optim": {"lr": 3}}), r"phases, entry 2: unknown config key 'optim\.lr'; nearest"),
        (({"steps": 1, "train": {"steps": 2}},), r"phases, entry 1: train\.steps is given twice"),
        (({"epochs": -1},), r"phases, entry 1: train\.epochs must be at least 0, got -1\.0"),
        ((3,), r"phases must be a tuple of dictionaries, got \(3,\)"),
        (({"optim.options": {"x": object()}},), r"phases, entry 1: .*|phases must be of texts"),
    ],
)
def test_settings_of_phases_are_checked_with_the_config(given: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        plan.read({"phases": given})


def test_phases_are_stored_and_given_on_the_command_line() -> None:
    given = plan.read({"phases": [{"epochs": 3, "optim": {"schedule": {"name": "cosine"}}}]})
    assert plan.stored(json.dumps(plan.to_dict(given))) == given
    assert plan.read(plan.config(given)) == given
    (first,) = plan.phases(given)
    assert (first.optim.schedule.name, first.train.epochs, first.phases) == ("cosine", 3.0, ())


def test_each_phase_has_its_own_seed() -> None:
    found = {seeds.of_phase(seed, number) for seed in (0, 1, 2**63) for number in (1, 2, 3)}
    assert len(found) == 9
    assert seeds.of_phase(7, 1) == 7
