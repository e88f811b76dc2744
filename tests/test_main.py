"""The command line of training: messages of mistakes, exit statuses and files."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_jax import main
from cnn_jax.runs import workdir
from cnn_jax.runtime import console
from tests.main_command import ROOT, config, run

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("main")

Fail = Callable[..., str]


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
