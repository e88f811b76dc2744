"""Config files: their place, and files that are no configs."""

import sys
from pathlib import Path

import pytest

from cnn_jax import config_files, errors, plan

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a temporary directory the current one and restores Python's search path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(ROOT))])
    return tmp_path


def make_package(directory: Path, name: str, value: int) -> Path:
    """Writes a package with a config file that imports from it in both ways; returns the file."""
    package = directory / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "shared.py").write_text(f"SEED = {value}\n")
    file = package / "mine.py"
    file.write_text(
        f"from {name} import shared\nfrom .shared import SEED\n"
        "def get_config(steps='0'): return {'seed': SEED, 'train': {'steps': int(steps)}}\n"
    )
    return file


def test_a_config_of_a_package_is_loaded_from_another_directory(elsewhere: Path) -> None:
    file = make_package(elsewhere / "far", "settings_a", 3)
    make_package(elsewhere, "settings_a", 4)  # The current directory has one of the same name.
    assert config_files.load(str(file)).seed == 3
    assert config_files.load(f"{file}:7").train.steps == 7


def test_the_configs_of_the_repository_are_loaded_through_a_link(elsewhere: Path) -> None:
    (elsewhere / "link.py").symlink_to(ROOT / "configs" / "quickstart.py")
    assert config_files.load("link.py:smoke").model.name == "lenet"


def test_paths_may_have_colons_and_the_home_directory(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(elsewhere))
    file = make_package(elsewhere / "a:b", "settings_b", 5)
    assert config_files.load(str(file)).seed == 5
    assert config_files.load("~/a:b/settings_b/mine.py:9").train.steps == 9


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("import sys\nsys.exit(3)", "mine.py, line 2: SystemExit: 3"),
        ("raise KeyError()", "mine.py, line 1: KeyError"),
        ("def f(): f()\nf()", "RecursionError: maximum recursion"),
        ("class E(Exception):\n  def __str__(self): 1 / 0\nraise E()", "line 3: E: <exception str"),
        ("x = '\0'", "source code string cannot contain null bytes"),
        ("x = '\xff'", "SyntaxError: (unicode error) 'utf-8' codec can't decode"),
        ("config = [1]", "mine.py: config must be a ConfigDict, got [1]"),
        ("config = {'optim': {'lr': 1}}", "mine.py: unknown config key 'optim.lr'"),
        ("\ndef get_config(): return {'seed': 'a'}", "mine.py, line 2: seed must be an integer"),
        ("config = {'optim': None}", "mine.py: unknown config key 'optim'"),
        (
            "from ml_collections import ConfigDict\nconfig = ConfigDict()\nconfig.optim.name = 'x'",
            "mine.py, line 3: unknown config key 'optim'",
        ),
        (
            "from cnn_jax import plan\nconfig = plan.Plan(model=plan.Model(options=3))",
            "mine.py: TypeError: 'int' object is not iterable",
        ),
        ("get_config = 3", "mine.py: TypeError: 'int' object is not callable"),
    ],
    ids=range(13),
)
def test_a_file_that_is_no_config_is_one_line_with_its_place(content: str, words: str) -> None:
    Path("mine.py").write_bytes(content.encode("latin-1"))
    with pytest.raises(errors.UserError) as caught:
        config_files.load("mine.py")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["gs://bucket/a.py", "a" * 300, "/dev/null", "."], ids=range(4))
def test_a_path_that_is_no_file_is_one_line(name: str) -> None:
    with pytest.raises(errors.UserError, match=r"^--config '.*' is an address|^no config file"):
        config_files.load(name)


@pytest.mark.parametrize(
    "text", ["(" * 500, "-" * 100_000 + "1", "{[]: 1}", "9" * 5000], ids=range(4)
)
def test_any_text_of_the_command_line_is_answered(text: str) -> None:
    settings = plan.Plan()
    with pytest.raises(errors.UserError, match=r"^(data\.mean|train\.epochs) must be"):
        config_files.override(settings, {"data.mean": text, "train.epochs": text})
