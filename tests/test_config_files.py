"""Config files: their place, and files that are no configs."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cnn_jax import config_files, errors, plan
from cnn_jax.runtime import imports, shipped

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


@pytest.fixture
def unimported(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hides the package `configs` of the repository, which other tests import."""
    for name in configs_in(sys.modules):
        monkeypatch.delitem(sys.modules, name)
    yield
    for name in configs_in(sys.modules):
        del sys.modules[name]


def configs_in(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.partition(".")[0] == "configs"]


def write(file: Path, text: str) -> str:
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    return str(file)


OWN = "from configs import base\nconfig = base.get_config()\nconfig.seed = {}\n"


def test_a_config_that_comes_with_the_package_is_loaded_by_its_name() -> None:
    assert config_files.load("quickstart") == config_files.load(f"{ROOT}/configs/quickstart.py")
    assert config_files.load("quickstart:smoke").train.steps == 4
    assert config_files.find("resnet50:smoke") == (ROOT / "configs" / "resnet50.py", "smoke")
    assert config_files.find("resnet50")[1] is None
    with pytest.raises(errors.UserError, match=r"variant of the config 'smoky'; did you mean 'sm"):
        config_files.load("quickstart:smoky")
    with pytest.raises(errors.UserError, match=r"^no config file 'quikstart'; nearest: quickstart"):
        config_files.load("quikstart")


@pytest.mark.parametrize("has_init", [True, False])
def test_a_folder_configs_of_the_user_neither_hides_nor_breaks_those_of_the_package(
    elsewhere: Path, unimported: None, has_init: bool
) -> None:
    if has_init:
        write(elsewhere / "configs" / "__init__.py", "raise AssertionError('imported')")
    for name in ("base", "quickstart"):
        write(elsewhere / "configs" / f"{name}.py", "raise AssertionError('imported')")
    write(elsewhere / "quickstart", "a file, not a config")
    sys.path.insert(0, "")
    assert config_files.load("quickstart:smoke").model.name == "lenet"
    assert not configs_in(sys.modules)


@pytest.mark.parametrize("place", ["", "configs", "settings"])
@pytest.mark.parametrize("has_init", [True, False])
def test_a_config_of_the_user_starts_from_those_of_the_package(
    elsewhere: Path, unimported: None, place: str, has_init: bool
) -> None:
    """In a folder `configs` of the user too, with modules of their own."""
    write(elsewhere / "configs" / "nets.py", "SEED = 7")
    if has_init:
        write(elsewhere / "configs" / "__init__.py", "")
    file = write(elsewhere / place / "mine.py", OWN.format("__import__('configs.nets').nets.SEED"))
    assert config_files.load(file).seed == 7
    assert config_files.load("quickstart").seed == 0


def test_a_base_of_the_user_goes_before_that_of_the_package(
    elsewhere: Path, unimported: None
) -> None:
    first = write(elsewhere / "mine.py", OWN.format(1))
    assert config_files.load(first).seed == 1
    write(elsewhere / "configs" / "base.py", "from cnn_jax import plan\ndef get_config(): ...")
    with pytest.raises(errors.UserError, match="AttributeError: 'NoneType'"):
        config_files.load(first)


def test_loading_leaves_the_imported_modules_and_the_finders_as_they_were() -> None:
    from configs import base

    finders = list(sys.meta_path)
    config_files.load("quickstart")
    assert sys.modules["configs.base"] is base
    assert sys.meta_path == finders


def test_configs_are_listed_by_path_in_the_clone_and_by_name_elsewhere(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(elsewhere / "configs" / "mine.py", '"""Mine."""')
    lines = config_files.overview().splitlines()
    assert lines[0] == "  configs/mine.py  Mine."
    assert (
        f"  mlp_fashion_mnist  {config_files.title(ROOT / 'configs/mlp_fashion_mnist.py')}" in lines
    )
    monkeypatch.chdir(ROOT)
    lines = config_files.overview().splitlines()
    assert [line.split()[0] for line in lines] == [f"configs/{n}.py" for n in config_files.names()]


def test_an_installed_package_has_its_configs_inside(
    elsewhere: Path, unimported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = elsewhere / "site-packages" / "cnn_jax" / "configs"
    inside.parent.mkdir(parents=True)
    write(inside.parent / "__init__.py", "raise AssertionError('imported')")
    write(inside / "__init__.py", "")
    write(inside / "base.py", "SEED = 5")
    write(
        inside / "mine.py",
        "from configs import base\nfrom . import base as too\n"
        "config = {'seed': base.SEED + too.SEED}",
    )
    monkeypatch.setattr(shipped, "_INSTALLED", inside)
    shipped.directory.cache_clear()
    try:
        assert config_files.load("mine").seed == 10
        assert config_files.names() == ["mine"]
    finally:
        shipped.directory.cache_clear()


def test_a_config_of_the_clone_names_modules_of_its_package(
    elsewhere: Path, unimported: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    cloned = elsewhere / "clone" / "configs"
    cloned.parent.mkdir()
    write(cloned / "__init__.py", "")
    write(cloned / "nets.py", "def net(num_classes, dtype): ...")
    write(cloned / "mine.py", "config = {'model': {'name': 'configs.nets:net'}}")
    monkeypatch.setattr(shipped, "_CLONED", cloned)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(ROOT))])
    shipped.directory.cache_clear()
    try:
        name = config_files.load("clone/configs/mine.py").model.name
        assert imports.load(name, "model.name").__module__ == "configs.nets"
    finally:
        shipped.directory.cache_clear()


def test_a_drive_of_windows_is_no_variant(elsewhere: Path) -> None:
    make_package(elsewhere, "settings_c", 6).rename(r"C:\mine.py")
    assert config_files.find(r"C:\mine.py:3") == (Path(r"C:\mine.py"), "3")
    assert config_files.find(r"C:\mine.py") == (Path(r"C:\mine.py"), None)
    with pytest.raises(errors.UserError, match=r"no config file 'C:\\\\x'"):
        config_files.find(r"C:\x:smoke")


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
