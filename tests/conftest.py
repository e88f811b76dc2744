"""Settings of all tests, and fixtures that several test files use."""

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

from cnn_jax.runtime import compilation_cache, console
from configs import quickstart

# Processes that tests start must not use the user's compilation cache.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Neither must this one.
jax.config.update("jax_enable_compilation_cache", False)
# Tests must give memory back: many run in one process.
os.environ["CNN_JAX_KEEP_MEMORY"] = "0"
# Keras is a reference for some networks. It reads this variable when it is imported.
os.environ["KERAS_BACKEND"] = "jax"

# Scripts that write golden files import torch or TensorFlow, which tests do not need.
collect_ignore_glob = ["*/make_*.py", "golden/recipes/*.py"]


def pytest_configure(config: pytest.Config) -> None:
    """Sets flags of XLA that shorten compilation, which takes most of the time of the tests.

    LLVM's optimisations are off. XLA's own passes stay. With JAX 0.12.0.1, this level gives a wrong
    gradient of Inception v3 in float64, so the slow tests, which run large networks, keep XLA's
    default there. JAX before 0.11 has two generators of code for fused operations. The fast tests
    take the older one, which compiles twice as fast. The slow tests keep XLA's default, which newer
    versions have alone; the gradients of Inception v3 in float64 need it as well.

    If `XLA_FLAGS` sets a level, as in `.ci/full`, it is kept, and the generator is XLA's default.
    """
    flags, level = os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level"
    is_fast, is_old = "not slow" in config.getoption("markexpr"), jax.__version_info__ < (0, 11)
    if level not in flags:
        if is_fast or is_old:
            flags += f" {level}=0"
        if is_fast and is_old:
            flags += " --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = flags.strip()  # XLA reads it when its first backend starts.


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the options of tests/fuzz."""
    group = parser.getgroup("fuzz", "damaged files for the readers (tests/fuzz)")
    group.addoption("--fuzz-seconds", type=float, default=3.0, help="seconds for each reader")
    group.addoption("--fuzz-seed", type=int, default=0, help="seed of the damage")
    group.addoption("--fuzz-number", type=int, default=-1, help="the only input to read")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Makes Python's garbage collection rarer, and exempts the imported modules from it.

    Tracing makes millions of objects that live on. Searching them took a seventh of the time.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Deletes the compiled programs after a slow test, or after the last of its group.

    Only tests of the same group use these programs again. Those of all slow tests together would
    fill the memory.
    """
    group = item.get_closest_marker("xdist_group")
    same_group = nextitem is not None and nextitem.get_closest_marker("xdist_group") == group
    if item.get_closest_marker("slow") and not (group and same_group):
        jax.clear_caches()


@pytest.fixture(scope="module")
def shared_programs() -> Iterator[None]:
    """Lets the runs of a test file, which compile the same programs, compile each of them once."""
    with compilation_cache.temporary():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a short run: three epochs of the quickstart, on the real digits."""
    directory = tmp_path_factory.mktemp("trained")
    from cnn_jax import train

    config = quickstart.get_config()
    config.train.epochs = 3.0
    config.eval.every_epochs = 1.0
    config.checkpoint.keep = 3
    train.run(config, directory, progress=False)
    return directory


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tests call `main.main` without its effects on the rest of this process."""
    monkeypatch.setattr(compilation_cache, "use_cache", lambda: None)


@pytest.fixture
def exit_status(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int | str | None]:
    """Runs a command in this process and returns its exit status.

    The arguments are the function `main` of the command and its command-line arguments. The
    compilation cache of this process stays as it is.
    """

    def run(main: Callable[[], int], *arguments: str) -> int | str | None:
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        with pytest.raises(SystemExit) as exit_info:
            console.exit_with(main)
        return exit_info.value.code

    monkeypatch.setattr(compilation_cache, "use_cache", lambda: None)
    return run


@pytest.fixture
def refusal(
    exit_status: Callable[..., int | str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Runs a command that must end with status 1 and write nothing, and returns its message.

    The arguments are those of `exit_status`. The command runs in an empty directory.
    """

    def run(main: Callable[[], int], *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        assert exit_status(main, *arguments) == 1
        assert list(tmp_path.iterdir()) == []
        return capsys.readouterr().err

    return run
