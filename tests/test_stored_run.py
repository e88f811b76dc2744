"""Work directories of commit e1b8c15, before the restructuring, are evaluated and continued.

`stored_runs/e1b8c15/README.md` says how they were made and what they cover. On the machine that
made them, all numbers are equal. With SSE4.2, AVX2 or two devices instead, losses differ by up to
3e-7, parameters by up to 7e-6, and no count differs.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import cnn_jax
from cnn_jax import errors, evaluate, main, plan, predict, predictor, runs, train
from cnn_jax.evaluators import of_run
from cnn_jax.runs import checkpoint, logs, workdir
from tests import figures

STORED = Path(__file__).parent / "stored_runs" / "e1b8c15"
MACHINE_DEPENDENT = ("images_per_second", "data_wait", "compile_seconds")
# The configs of the runs, under today's keys.
PLANS = {
    "resnet": plan.read(
        {
            "seed": 5,
            "compilation_cache": False,
            "model": {
                "name": "resnet20",
                "stage_sizes": (1, 1, 1),
                "widths": (6, 8, 12),
                "epsilon": 1e-3,
                "dropout_rate": 0.1,
            },
            "data": {"image_size": 12, "resize": "bilinear", "crop_padding": 1, "flip": True},
            "optim": {
                "learning_rate": 0.2,
                "weight_decay": 1e-3,
                "schedule": {"name": "cosine", "warmup_epochs": 0.5},
            },
            "loss": {"label_smoothing": 0.1, "auxiliary_weight": 0.4},
            "train": {"batch_size": 64, "epochs": 6.0},
            "eval": {"every_epochs": 0.5, "batch_size": 100},
            "checkpoint": {"keep": 1},
            "log": {"every_steps": 8},
        }
    ),
    "mlp": plan.read(
        {
            "seed": 4,
            "compilation_cache": False,
            "model": {"name": "mlp", "widths": (8,), "activation": "tanh", "dropout_rate": 0.1},
            "data": {"image_size": 8, "channels": 3, "validation_split": ""},
            "optim": {
                "name": "adam",
                "learning_rate": 0.02,
                "clip_norm": 1.0,
                "schedule": {"name": "step", "boundary_epochs": (1.0, 2.0)},
            },
            "loss": {"name": "distance"},
            "train": {"batch_size": 64, "epochs": 2.5, "steps_per_call": 3},
            "eval": {"batch_size": 100},
            "checkpoint": {"every_steps": 12},
            "log": {"every_steps": 8},
        }
    ),
}
STOPPED_AT = {"resnet": 93, "mlp": 30}
TOTAL_STEPS = {"resnet": 120, "mlp": 50}
# The step of the best checkpoint. Without validation, it is the newest.
BEST = {"resnet": 70, "mlp": 30}
BEST_AFTER_THE_END = {"resnet": 100, "mlp": 50}
KEPT_AFTER_THE_END = {"resnet": [100, 120], "mlp": [48, 50]}
EVALUATIONS = [
    ("resnet", "validation", "best"),
    ("resnet", "test", "last"),
    ("mlp", "train", "best"),
    ("mlp", "test", "last"),
]

pytestmark = [pytest.mark.xdist_group("stored run"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets runs and evaluations draw nothing."""
    with figures.stand_in():
        yield


def copy(name: str, tmp_path: Path) -> Path:
    """Returns a copy of a work directory."""
    return shutil.copytree(STORED / name, tmp_path / name)


def expected(name: str) -> Any:
    """Returns the results of e1b8c15."""
    return json.loads((STORED / f"{name}.json").read_text())


def rows(directory: Path) -> list[dict[str, Any]]:
    """Returns the lines of the log, without times and throughputs."""
    return [
        {key: value for key, value in row.items() if key not in MACHINE_DEPENDENT}
        for row in logs.read(directory)
    ]


@pytest.mark.parametrize("name", PLANS)
def test_config_and_description_are_read(name: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    found = workdir.load_plan(directory)
    assert found == plan.fill_automatic(PLANS[name], found)
    assert found.data.storage == "resident"
    assert found.optim.schedule.warmup_first_step == 0
    assert found.optim.decay == plan.keys()["optim.decay"].before
    description = workdir.load_description(directory)
    assert description.class_names == tuple("0123456789")
    assert description.native_size == (8, 8)
    assert description.input_shape == PLANS[name].data.input_shape


@pytest.mark.parametrize(("name", "split", "which"), EVALUATIONS)
def test_evaluation_gives_the_same_counts_and_loss(
    name: str, split: str, which: str, tmp_path: Path
) -> None:
    evaluation = of_run.run(copy(name, tmp_path), split, which)
    found = json.loads(evaluation.path.read_text())
    before = expected(name)["evaluations"][f"{split} {which}"]
    assert found.pop("loss") == pytest.approx(before.pop("loss"), rel=1e-5)
    assert found.pop("checkpoint_step") == (BEST if which == "best" else STOPPED_AT)[name]
    assert found == before
    assert found.keys() == {"top1", "top5", "examples", "per_class_accuracy", "confusion"}


@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("name", PLANS)
def test_prediction_gives_the_same_probabilities(name: str, which: str, tmp_path: Path) -> None:
    found = predictor.load(copy(name, tmp_path), which)
    picture = STORED / "digit.png"
    before = expected(name)["predictions"][which]
    probabilities = found(picture).probabilities
    np.testing.assert_allclose(probabilities, before["probabilities"], rtol=0, atol=1e-5)
    assert [one for one, _ in found.top(picture, 3)] == [one for one, _ in before["top"]]


@pytest.mark.parametrize("name", PLANS)
def test_resumed_run_ends_as_the_old_version_ended_it(name: str, tmp_path: Path) -> None:
    directory = copy(name, tmp_path)
    checkpoints = directory / workdir.CHECKPOINTS
    assert checkpoint.steps(checkpoints)[-1] == STOPPED_AT[name]
    written = (directory / workdir.METRICS).read_text()
    outcome = train.run(PLANS[name], directory, progress=False)
    assert outcome.step == TOTAL_STEPS[name]
    assert outcome.params_sha256
    assert (directory / workdir.METRICS).read_text().startswith(written)
    before, found = expected(name)["rows"], rows(directory)
    assert len(found) == len(before)
    for row, old in zip(found, before, strict=True):
        assert row.keys() == old.keys()
        for key, value in old.items():
            if key != "params_sha256":
                # The old version computed the rates in float32; cosine's end is a difference.
                rounding = 1e-7 * PLANS[name].optim.learning_rate if key == "learning_rate" else 0
                near = pytest.approx(value, rel=1e-5, abs=max(rounding, 1e-12))
                assert row[key] == (near if isinstance(value, float) else value)
    assert checkpoint.steps(checkpoints) == KEPT_AFTER_THE_END[name]
    assert checkpoint.best_step(checkpoints) == BEST_AFTER_THE_END[name]
    assert not (directory / workdir.DAMAGED_CHECKPOINTS).exists()
    leaves = jax.tree.leaves_with_path(predictor.restore(directory, "last").variables)
    final = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
    with np.load(STORED / f"{name}.npz") as old_final:
        assert final.keys() == set(old_final)
        for path, value in old_final.items():
            np.testing.assert_allclose(final[path], value, rtol=0, atol=1e-4, err_msg=path)


@pytest.mark.parametrize(
    ("name", "section", "change", "message"),
    [
        ("resnet", "loss", {"auxiliary_weight": 0.3}, "loss.auxiliary_weight: 0.4 there, 0.3 now"),
        ("resnet", "loss", {"label_smoothing": 0.0}, "loss.label_smoothing: 0.1 there, 0.0 now"),
        ("resnet", "model", {"widths": (6, 8, 16)}, r"model.widths: \(6, 8, 12\) there, "),
        ("mlp", "loss", {"name": "cross_entropy"}, "loss.name: 'distance' there, 'cross_entropy'"),
    ],
)
def test_another_config_is_refused_and_changes_nothing(
    name: str, section: str, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    directory = copy(name, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    given = plan.to_dict(PLANS[name])
    given[section] |= change
    with pytest.raises(ValueError, match=message):
        train.run(given, directory, progress=False)
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def test_a_result_that_is_not_finite_is_written_as_null(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 8259 has neither infinity nor NaN, which strict readers of JSON refuse."""
    details = {"counts": np.ones(10), "correct": np.ones(10), "confusion": np.eye(10, dtype=int)}
    values = {"loss": np.inf, "top1": 0.5, "other": np.nan}
    monkeypatch.setattr(of_run, "_measure", lambda *_: (values, details))
    text = of_run.run(copy("mlp", tmp_path), "test").path.read_text()

    def refuse(word: str) -> None:
        raise AssertionError(word)

    content = json.loads(text, parse_constant=refuse)
    assert [content[name] for name in values] == [None, 0.5, None]


def store(directory: Path, path: str, value: Any) -> None:
    """Sets a value of the stored config of a run that version 9.1.0 made."""
    content = json.loads((directory / workdir.CONFIG).read_text())
    *sections, name = path.split(".")
    inner = content
    for section in sections:
        inner = inner[section]
    inner[name] = value
    (directory / workdir.CONFIG).write_text(json.dumps(content))
    starts = [{"versions": {"cnn_jax": "0.1.0"}}, {"versions": {"cnn_jax": "9.1.0"}}]
    workdir.save(directory, workdir.ENVIRONMENT, {"starts": starts})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "unknown config key 'colour'; nearest: "),
        ("data.colour", {"depth": 3}, "unknown config key 'data.colour.depth'; nearest: "),
        ("seed", "x", "seed must be an integer, got 'x'"),
        ("train.epochs", None, "train.epochs must be a number, got None"),
        ("data.channels", 17, "data.channels must be at least 0 and below 17, got 17"),
        ("model.num_classes", 3, "model.num_classes is no key: "),
        ("model.name", [{"a": 1}], "model.name must be a text, got ({'a': 1},)"),
        ("", 3, "unknown config key ''; nearest: "),
    ],
)
def test_a_config_of_another_version_is_one_line_in_every_command(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    exit_status: Callable[..., int | str | None],
    path: str,
    value: Any,
    message: str,
) -> None:
    directory = copy("mlp", tmp_path)
    store(directory, path, value)
    expected = (
        f"{directory / workdir.CONFIG} is damaged or of another version (made with cnn_jax 9.1.0, "
        f"read with {cnn_jax.__version__}): {message}"
    )
    with pytest.raises(errors.UserError) as caught:
        runs.read(tmp_path)
    assert str(caught.value).startswith(expected)
    given = f"--workdir={directory}"
    for command, arguments in (
        (evaluate.main, [given]),
        (predict.main, [given, str(STORED / "digit.png")]),
        (main.main, [given, "--config=configs/quickstart.py"]),
    ):
        assert exit_status(command, *arguments) == 1
        shown = capsys.readouterr().err
        assert f"error: {expected}" in shown
        assert "Traceback" not in shown
        assert shown.count("\n") == 1


def test_an_option_that_another_version_has_is_one_line(tmp_path: Path) -> None:
    directory = copy("mlp", tmp_path)
    store(directory, "model.colour", 3)
    message = "made with cnn_jax 9.1.0, .*: unknown option of model 'mlp': 'colour'; allowed: "
    with pytest.raises(errors.UserError, match=message):
        of_run.run(directory, "test")
    with pytest.raises(errors.UserError, match=message):
        predictor.load(directory)


def test_of_many_unknown_keys_three_are_named_in_one_line(tmp_path: Path) -> None:
    directory = copy("mlp", tmp_path)
    content = json.loads((directory / workdir.CONFIG).read_text())
    keys = {f"key{number}": number for number in range(9)}
    (directory / workdir.CONFIG).write_text(json.dumps({**content, **keys}))
    with pytest.raises(errors.UserError) as caught:
        workdir.load_plan(directory)
    message = str(caught.value)
    assert message.startswith(f"{directory / workdir.CONFIG} is damaged: unknown config key 'key0'")
    assert message.endswith("; and 6 more")
    assert "\n" not in message
