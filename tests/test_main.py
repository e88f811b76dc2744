"""The command line of training: messages, exit statuses and files."""

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from cnn_jax import main, objectives, optim, plan, train
from cnn_jax.contracts import Description
from cnn_jax.runs import workdir
from cnn_jax.runtime import compilation_cache, console
from tests import figures
from tests.networks import NETWORKS

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("main")

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

STEMS = {path.stem for path in (ROOT / "configs").glob("*.py")}
CONFIGS = sorted(STEMS - {"__init__", "base"})  # these two hold no config of their own

Fail = Callable[..., str]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets runs of this process draw no curves."""
    with figures.stand_in():
        yield


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


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tests call `main.main` without its effects on the rest of this process."""
    monkeypatch.setattr(compilation_cache, "use_cache", lambda: None)


@pytest.fixture
def fail(same_process: None, capsys: pytest.CaptureFixture[str]) -> Fail:
    """Runs the command in this process; returns its message after exit status 1."""

    def run_and_fail(*arguments: str) -> str:
        with pytest.raises(SystemExit) as exit_info:
            console.exit_with(lambda: main.main(arguments))
        output, message = capsys.readouterr()
        # A mistake that only the data shows comes after this line.
        message = re.sub(r"^reading the data set .*\n", "", message)
        assert exit_info.value.code == 1
        assert output == ""
        assert message.startswith("error: ")
        assert "Traceback" not in message
        return message

    return run_and_fail


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--config.model.name=lenett"],
            ["unknown model 'lenett'", "did you mean 'lenet'", "cnn_jax.summary --list"],
        ),
        (["--config.model.activatio=relu"], ["'activatio'", "did you mean 'activation'"]),
        (["--config.model.activation=relux"], ["'relux'", "relu", "sigmoid", "tanh"]),
        (["--config.model.dtype=float8"], ["'float8'", "bfloat16", "float32"]),
        (["--config.optim.lerning_rate=1"], ["optim.lerning_rate", ": optim.learning_rate,"]),
        (["--config.optin.learning_rate=1"], ["optin.learning_rate", ": optim.learning_rate,"]),
        (["--config.lerning_rate=1"], ["'lerning_rate'", ": optim.learning_rate,"]),
        (["--config.seed.x=1"], ["unknown config key 'seed.x'", ": seed,"]),
        (["--config.optim=sgd"], ["unknown config key 'optim'", "optim."]),
        (
            ["--config.optim.learning_rate=fast"],
            ["optim.learning_rate must be a number, got 'fast'"],
        ),
        (["--config.train.batch_size=1.5"], ["train.batch_size must be an integer, got 1.5"]),
        (["--config.train.batch_size"], ["train.batch_size must be an integer, got True"]),
        (["--config.data.flip=1"], ["data.flip must be True or False, got 1"]),
        (["--config.optim.name=sdg"], ["unknown optimizer 'sdg'", "did you mean 'sgd'", "adamw"]),
        (["--config.optim.schedule.name=cosin"], ["'cosin'", "did you mean 'cosine'"]),
        (["--config.data.source=digit"], ["'digit'", "did you mean 'digits'", "idx", "tfds"]),
        (["--config.data.train_split=trian"], ["unknown split 'trian'", "did you mean 'train'"]),
        (["--config.train.batch_size=0"], ["train.batch_size", "0"]),
        (["--config.train.batch_size=1000"], ["train.batch_size 1000", "48"]),
        (["--config.train.steps_per_call=0"], ["train.steps_per_call must be at least 1, got 0"]),
        (["--config.loss.label_smoothing=1"], ["loss.label_smoothing", "1"]),
        (["--config.train.label_smoothing=0.1"], ["train.label_smoothing is now loss.label_smoo"]),
        (["--config.checkpoint.keep=0"], ["checkpoint.keep", "0"]),
        (["stray"], ["'stray'"]),
        (["--workdr=x"], ["unknown flag '--workdr'; nearest: --workdir,"]),
        (["--optim.learning_rate=1"], ["nearest: --config.optim.learning_rate,"]),
    ],
    ids=lambda value: value[0].removeprefix("--config.") if "--" in value[0] else "",
)
def test_bad_input_is_one_message_and_changes_nothing(
    tmp_path: Path, fail: Fail, arguments: list[str], words: list[str]
) -> None:
    message = fail(config("quickstart"), f"--workdir={tmp_path / 'run'}", *arguments)
    for word in words:
        assert word in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


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


def test_a_config_without_variants_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("config = {}")
    assert "mine.py has no function get_config, so it has no variant 'smoke'" in fail(
        "--config=mine.py:smoke"
    )


def test_all_mistakes_in_keys_are_listed_at_once(fail: Fail) -> None:
    message = fail(
        config("quickstart"), "--config.seed=-1", "--config.sed=1", "--config.data.flip=2"
    )
    assert message.count("\n") == 3
    for word in (
        "seed must be at least 0 and below 18446744073709551616, got -1",
        "unknown config key 'sed'",
        "data.flip must be",
    ):
        assert word in message


@pytest.mark.parametrize("content", [b"\0\0\x08\x03\0\0", b"\0\0\x0d\x01\0\0\0\0", b"hello"])
def test_damaged_idx_file_is_named(tmp_path: Path, fail: Fail, content: bytes) -> None:
    directory = tmp_path / "idx"
    directory.mkdir()
    (directory / "train-images-idx3-ubyte").write_bytes(content)
    (directory / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\1\0")
    message = fail(
        config("mlp_fashion_mnist"),
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=idx",
        f"--config.data.directory={directory}",
    )
    assert message.startswith(f"error: {directory / 'train-images-idx3-ubyte'} ")
    assert list(tmp_path.iterdir()) == [directory]


def test_tfds_set_that_is_missing_without_a_network_says_what_to_run(tmp_path: Path) -> None:
    result = run(
        config("quickstart"),
        f"--workdir={tmp_path / 'run'}",
        "--config.data.source=tfds",
        "--config.data.name=mnist:3.0.1",
        f"--config.data.directory={tmp_path / 'tfds'}",
        # No network, on any machine: a port where nothing listens.
        environment={"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    )
    assert result.returncode == 1
    assert "mnist:3.0.1 is not prepared in" in result.stderr
    assert "pip install tensorflow tensorflow-datasets" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_batch_that_does_not_divide_is_refused_before_compiling(tmp_path: Path) -> None:
    result = run(
        config("quickstart"),
        f"--workdir={tmp_path / 'run'}",
        "--config.train.batch_size=12",
        environment={"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    )
    assert result.returncode == 1
    assert "train.batch_size 12 does not divide by the 8 devices; nearest: 8, 16" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        (
            "--config=configs/nothing.py",
            ["no config file 'configs/nothing.py'", "nearest: configs/"],
        ),
        ("--config=configs/quikstart.py", ["nearest: configs/quickstart.py,"]),
        ("--config=quikstart:smoke", ["no config file 'quikstart'; nearest: quickstart,"]),
        (f"--config={ROOT}/configs/resnet20.py", [f"nearest: {ROOT}/configs/resnet"]),
        ("--config=configs/quickstart.py:smoky", ["smoky", "did you mean 'smoke'"]),
        ("--config=configs/base.py:smoke", ["configs/base.py: TypeError: get_config()"]),
        ("--config", ["--config: expected one argument; see --help"]),
        ("--workdir=somewhere", ["--config is missing"]),
    ],
)
def test_config_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, fail: Fail, flag: str, words: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    message = fail(flag)
    for word in words:
        assert word in message
    assert message.count("\n") == 1


def test_without_configs_in_the_current_directory_names_and_those_beside_are_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "; nearest: quickstart," in fail("--config=configs/quickstart.py")
    (tmp_path / "mine.py").touch()
    assert "no config file 'mime.py'; nearest: mine.py," in fail("--config=mime.py")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "config.optim.lerning_rate = 1",
            "unknown config key 'lerning_rate'; nearest: optim.learni",
        ),
        ("config.optin.learning_rate = 1", "unknown config key 'optin'; nearest: optim."),
        ("config.optim.update(lr=1)", "unknown config key 'lr'; nearest: "),
        ("config.optim.learning_rate = 'fast'", "TypeError: Could not override field 'learning_ra"),
        ("import not_installed", "ModuleNotFoundError: No module named 'not_installed'"),
        ("open('nothing')", "FileNotFoundError: [Errno 2] No such file or directory: 'nothing'"),
        ("{}['nothing']", "KeyError: nothing"),
        ("1 +", "SyntaxError: invalid syntax"),
    ],
)
def test_error_within_a_config_file_is_one_line_with_its_place(
    tmp_path: Path, fail: Fail, line: str, words: str
) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from configs import base\n"
        "def get_config():\n"
        "    config = base.get_config()\n"
        f"    {line}\n"
        "    return config\n"
    )
    message = fail(f"--config={path}")
    assert message.startswith(f"error: {path}, line 4: {words}")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", "has neither a function get_config nor a variable config"),
        ("def get_config(): pass", ": the result of get_config() must be a ConfigDict, got None"),
        ("def get_config(): return {'optim': {'lr': 1}}", "unknown config key 'optim.lr'"),
    ],
)
def test_config_file_without_a_config(tmp_path: Path, fail: Fail, content: str, words: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(content)
    assert words in fail(f"--config={path}")


def test_work_directory_that_cannot_be_used_is_one_line(tmp_path: Path, fail: Fail) -> None:
    file = tmp_path / "file"
    file.touch()
    for directory in (file, file / "run", Path("/proc/run")):
        message = fail(config("quickstart"), f"--workdir={directory}")
        assert f"work directory {directory}" in message
        assert message.count("\n") == 1
    with workdir.lock(tmp_path / "locked"):
        message = fail(config("quickstart"), f"--workdir={tmp_path / 'locked'}")
        assert message == f"error: another process is writing to {tmp_path / 'locked'}\n"


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


def test_run_leaves_what_the_readme_says_and_refuses_another_config(
    tmp_path: Path, fail: Fail
) -> None:
    result = run(config("quickstart"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    workdir = Path(lines[-1].removeprefix("work directory: "))
    assert workdir.parent.name == "runs"
    assert f"evaluate: python -m cnn_jax.evaluate --workdir={workdir} --checkpoint=last" in lines
    assert f"predict:  python -m cnn_jax.predict --workdir={workdir} IMAGE..." in lines
    directory = tmp_path / workdir
    names = {path.name for path in directory.iterdir()}
    assert {"config.json", "metrics.jsonl", "curves.png", "checkpoints"} <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    rows = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == [
        *("train", "train", "validation", "test", "final"),
    ]
    assert f"params_sha256: {rows[-1]['params_sha256']}" in lines

    # Standard error is no terminal: a start block, the phases, and the last step.
    assert re.search(r"[^\n -~…]", result.stderr) is None
    for pattern in (
        r"^network +lenet, 61,706 parameters",
        rf"^work directory +{workdir}$",
        # With an empty cache, the native kernels are compiled too.
        r"^compiling the training step …\n(cnn_jax compiles its CPU kernels.*\n)?"
        r"compiling the training step: \d+\.\d s$",
        r"^step 4/4, loss \d\.\d+, top1 .*, \d+ images/s, time \d\d:\d\d\n\Z",
    ):
        assert re.search(pattern, result.stderr, re.MULTILINE), (pattern, result.stderr)

    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    message = fail(config("quickstart"), f"--workdir={directory}", "--config.seed=1")
    assert "seed: 0 there, 1 now" in message
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before


def smoke(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config("smoke")


def is_large(name: str) -> bool:
    """Returns True if compiling and running the config's network is slow."""
    return NETWORKS[smoke(name).model.name].is_large


# The large networks that are run: one for each optimizer and each way to compute the loss.
LARGE = ("googlenet", "mobilenetv2", "vit_small_patch16_224")
# Others, of which a process takes up to a minute.
LARGEST = ("inception_v3", "resnet34", "vgg16")


# Configs whose networks compile fast. The test of a whole run covers the quickstart.
FAST = ("lenet5_fashion_mnist",)
SMALL = [name for name in CONFIGS if not is_large(name) and name not in (*FAST, "quickstart")]


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL)]
)
def test_configs_run_in_their_smoke_variants(tmp_path: Path, same_process: None, name: str) -> None:
    assert main.main([config(name), f"--workdir={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
        *(pytest.param(name, marks=pytest.mark.full) for name in LARGEST),
    ],
)
def test_configs_of_large_networks_run_in_their_smoke_variants(tmp_path: Path, name: str) -> None:
    result = run(config(name), f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr


def is_traced(name: str) -> bool:
    """Returns True if the check of the config traces a large network, for `optim.decay`."""
    return is_large(name) and bool(smoke(name).optim.decay)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * is_traced(name)) for name in CONFIGS],
)
def test_every_config_is_allowed(name: str) -> None:
    train.check(plan.read(smoke(name)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * is_large(name)) for name in CONFIGS],
)
def test_every_config_makes_a_network_and_an_optimizer_for_its_images(name: str) -> None:
    settings = plan.read(smoke(name))
    shape = settings.data.input_shape
    classes = tuple(map(str, range(10)))
    objective = objectives.make(settings, Description(classes, None, shape, (), ()))
    _, optimizer = optim.of_plan(settings.optim, 100, 10, batch_size=settings.train.batch_size)

    def start() -> Any:
        batch = objectives.init_batch(settings.data.input_shape)
        params, *_ = objective.init(jax.random.key(0), batch)
        return optimizer.init(params)

    assert jax.tree.leaves(jax.eval_shape(start))
