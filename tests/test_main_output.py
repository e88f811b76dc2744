"""Settings that the command line of training sets, its reports and its help."""

import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax import main, plan, train
from tests.main_command import CONFIGS, ENVIRONMENT, ROOT, config

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("main")


def test_print_config_shows_every_key_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "from cnn_jax import plan; config = plan.config(plan.Plan())\nconfig.model.widths = (8,)\n"
    )
    arguments = ("--config=mine.py", "--config.seed=3", "--print_config")
    assert main.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(plan.keys()) + 1
    for line, (path, key) in zip(lines, plan.keys().items(), strict=False):
        changed, default = line.startswith("* "), repr(key.default)
        value = "3" if path == "seed" else default
        assert changed == (path == "seed")
        assert line[2:].startswith(f"{path} = {value} ")
        assert line.endswith(f"  # default {default}; {key.comment}")
    assert lines[-1].startswith("* model.widths = (8,) ")
    assert {path.name for path in tmp_path.iterdir()} <= {"mine.py", "__pycache__"}


@pytest.fixture
def received(same_process: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[plan.Plan, Path]]:
    """The arguments of `train.run`, which does nothing but to return a complete run."""
    calls: list[tuple[plan.Plan, Path]] = []

    def fake_run(settings: plan.Plan, directory: Path) -> train.Outcome:
        calls.append((settings, directory))
        return train.Outcome(3, params_sha256="ab12", test={"loss": 0.5, "top1": 0.98765})

    monkeypatch.setattr(train, "run", fake_run)
    return calls


def test_command_line_sets_keys_by_their_type(received: list[tuple[plan.Plan, Path]]) -> None:
    main.main(
        [
            config("quickstart"),
            "--workdir=here",
            "--config.seed",
            "7",
            "--config.data.flip",
            "--config.data.name=007",
            "--config.optim.nesterov=true",
            "--config.optim.learning_rate=1",
            "--config.optim.schedule.boundary_epochs=(30,60.5)",
            "--config.train.steps=5",
            "--config.train.steps=6",
            "--config.model.activation=tanh",
            "--config.model.dropout_rate=0.5",
        ]
    )
    ((settings, directory),) = received
    assert directory == Path("here")
    assert settings.seed == 7
    assert settings.data.flip is True
    assert settings.data.name == "007"
    assert settings.optim.nesterov is True
    assert isinstance(settings.optim.learning_rate, float)
    assert settings.optim.schedule.boundary_epochs == (30.0, 60.5)
    assert settings.train.steps == 6
    assert settings.model.options == {"activation": "tanh", "dropout_rate": 0.5}


def test_tuple_of_one_number(
    received: list[tuple[plan.Plan, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main.main([config("quickstart"), "--config.optim.schedule.boundary_epochs=30"])
    ((settings, directory),) = received
    assert settings.optim.schedule.boundary_epochs == (30.0,)
    assert directory.parent == Path("runs")
    assert directory.name.startswith("quickstart-20")


def test_report_of_a_complete_run(
    received: list[tuple[plan.Plan, Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main([config("quickstart"), "--workdir=a b"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "test loss: 0.5000",
        "test top1: 0.9877",
        "params_sha256: ab12",
        "These values belong to the final parameters (checkpoint 'last').",
        "The digest repeats only with the same versions and machine.",
        "evaluate: python -m cnn_jax.evaluate --workdir='a b' --checkpoint=last",
        "predict:  python -m cnn_jax.predict --workdir='a b' IMAGE...",
        "work directory: a b",
    ]


@pytest.mark.parametrize(("signal", "status"), [(15, 143), (2, 130), (0, 0)])
def test_report_of_a_stopped_run(
    same_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    signal: int,
    status: int,
) -> None:
    monkeypatch.setattr(train, "run", lambda *_: train.Outcome(3, signal=signal))
    assert main.main([config("quickstart"), "--workdir=here"]) == status
    assert capsys.readouterr().out.splitlines() == [
        "stopped and saved at step 3; to continue, repeat the command with",
        "  --workdir=here",
        "work directory: here",
    ]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["--config=configs/nothing.py"], 1),
        (["--config=configs/quickstart.py", "--config.optim.lerning_rate=1"], 1),
    ],
)
def test_help_and_mistakes_in_keys_do_not_wait_for_jax(arguments: list[str], status: int) -> None:
    script = f"""
import sys
from cnn_jax import main
from cnn_jax.runtime import console
try:
    console.exit_with(lambda: main.main({arguments}))
except SystemExit as error:
    heavy = {{"jax", "flax", "optax", "orbax", "sklearn", "matplotlib", "tensorboardX"}}
    print(error.code, sorted(heavy & sys.modules.keys()))
"""
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == f"{status} []"


def test_help_names_flags_keys_examples_and_configs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as exit_info:
        main.main(["--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    flags = ("--workdir", "--config.KEY=VALUE", "--print_config")
    for word in ("usage: python -m cnn_jax.main", *flags):
        assert word in text
    assert "\n  python -m cnn_jax.main --config=configs/quickstart.py\n" in text
    for name in CONFIGS:
        assert f"\n  configs/{name}.py  " in text


def test_closed_pipe_ends_help_quietly() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cnn_jax.main", "--help"],
        cwd=ROOT,
        # argparse ignores errors of writing, which unbuffered output would meet there.
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait(timeout=60) == 141
