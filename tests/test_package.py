"""The source distribution and the wheel: their content, and the wheel installed and used."""

import os
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cnn_jax
from cnn_jax import commands
from tests import test_imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = pytest.mark.xdist_group("package")  # so that the wheel is built in one process
PARTS = ("cnn_jax", "configs", "docs", "tests")
# The build backend of pyproject.toml, as pip calls it: first the source, then the wheel of that.
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(kind: str, source: Path, target: Path) -> Path:
    """Builds a distribution with setuptools; returns its file."""
    command = [sys.executable, "-c", BUILD, kind, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution. It is built in a directory of links: setuptools writes into it."""
    source = tmp_path_factory.mktemp("source")
    for path in [*(ROOT / name for name in PARTS), *(file for file in ROOT.iterdir())]:
        if path.is_file() or path.name in PARTS:
            (source / path.name).unlink(missing_ok=True)
            (source / path.name).symlink_to(path)
    return build("build_sdist", source, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as pip does for a user."""
    directory = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        # Python 3.11.3 and older have no filters; Python 3.12 warns if none is given.
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(directory, **options)
    return build("build_wheel", next(directory.iterdir()), tmp_path_factory.mktemp("wheel"))


def files_of(room: str) -> set[str]:
    """Returns all files of a room of the repository, but for what Python and tools made."""
    paths = (ROOT / room).rglob("*")
    return {
        path.relative_to(ROOT).as_posix()
        for path in paths
        if path.is_file() and not {"__pycache__", ".mypy_cache"} & set(path.parts)
    }


def test_the_wheel_holds_every_file_of_the_package_and_the_configs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    configs = {f"cnn_jax/{name}" for name in files_of("configs")}
    assert names == files_of("cnn_jax") | configs
    assert wheel.name == f"cnn_jax-{cnn_jax.__version__}-py3-none-any.whl"


def test_the_source_distribution_holds_code_and_documentation_but_no_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= files_of("cnn_jax") | files_of("configs") | files_of("docs")
    assert names >= {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "requirements.txt"}
    assert not [name for name in names if name.startswith(("tests", "experiments"))]


def normal(requirement: str) -> str:
    """Returns a requirement as `packaging` writes it, so that spelling makes no difference."""
    found = Requirement(requirement)
    found.name = canonicalize_name(found.name)
    return str(found)


def test_the_metadata_of_the_wheel_has_version_license_and_requirements(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert metadata["Version"] == cnn_jax.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line.partition("#")[0] for line in lines if line.partition("#")[0].strip()]
    extras: dict[str, list[str]] = PROJECT["optional-dependencies"]
    needed += [f"{line}; extra == '{name}'" for name, part in extras.items() for line in part]
    found = metadata.get_all("Requires-Dist", [])
    assert sorted(map(normal, found)) == sorted(map(normal, needed))
    assert metadata.get_all("Provides-Extra", []) == list(extras)


def test_every_command_has_a_script() -> None:
    scripts = {name: target.split(":")[1] for name, target in PROJECT["scripts"].items()}
    assert {f"cnn-jax-{attribute}": attribute for attribute in scripts.values()} == scripts
    modules = {getattr(commands, attribute).args[0] for attribute in scripts.values()}
    names = {module.removesuffix(".__main__") for module in test_imports.COMMANDS}
    assert {module.removeprefix("cnn_jax.") for module in modules} == names


def test_the_citation_has_the_required_keys_and_the_license() -> None:
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    keys = {line.partition(":")[0] for line in lines if line[:1].isalpha()}
    assert keys >= {"authors", "cff-version", "message", "title"}
    assert f"license: {PROJECT['license']}" in lines
    assert "version" not in keys, "the version is in cnn_jax/__init__.py only"


# The installed wheel

USER_CONFIG = (
    "from configs import base, other\nconfig = base.get_config()\nconfig.seed = other.SEED"
)
TYPED = """\
from cnn_jax import errors
message: str = errors.nearest("a", ["b"])
wrong: int = errors.nearest("a", ["b"])
"""


class Environment:
    """Virtual environment with the wheel and with the packages of this one.

    Attributes:
      scripts: the directory of its programs.
      directory: the current directory of its programs; it has a folder `configs` of the user.
    """

    def __init__(self, root: Path, wheel: Path) -> None:
        builder = venv.EnvBuilder(symlinks=os.name != "nt")
        context = builder.ensure_directories(root / "environment")
        builder.create(root / "environment")
        self._python, self.scripts = context.env_exe, Path(context.bin_path)
        packages = next((root / "environment").rglob("site-packages"))
        others = [
            path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")
        ]
        (packages / "others.pth").write_text("\n".join(others))
        install = ("install", "-q", "--no-deps", "--no-index", "--disable-pip-version-check")
        self.run(sys.executable, "-m", "pip", "--python", self._python, *install, str(wheel))
        self.directory = root / "elsewhere"
        (self.directory / "configs").mkdir(parents=True)
        (self.directory / "configs" / "quickstart.py").write_text("raise AssertionError")
        (self.directory / "configs" / "other.py").write_text("SEED = 3")
        (self.directory / "mine.py").write_text(USER_CONFIG)

    def run(self, *command: str, status: int = 0) -> str:
        """Runs a program; returns what it printed."""
        hidden = ("PYTHONPATH", "PYTHONSAFEPATH", "VIRTUAL_ENV")
        variables = {name: value for name, value in os.environ.items() if name not in hidden}
        done = subprocess.run(
            command,
            cwd=getattr(self, "directory", None),
            env=variables | {"JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def python(self, *arguments: str, status: int = 0) -> str:
        return self.run(self._python, *arguments, status=status)

    def script(self, name: str, *arguments: str) -> str:
        return self.run(str(self.scripts / name), *arguments)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Environment:
    return Environment(tmp_path_factory.mktemp("installed"), wheel)


@pytest.mark.slow
def test_the_installed_commands_train_evaluate_and_list_the_configs(installed: Environment) -> None:
    given = "--config=quickstart:smoke"
    plain = installed.python("-m", "cnn_jax.main", given, "--workdir=a")
    script = installed.script("cnn-jax-train", given, "--workdir=b")
    digests = [
        [line for line in output.splitlines() if line.startswith("params_sha256")]
        for output in (plain, script)
    ]
    assert digests[0] == digests[1] != []
    assert "top1" in installed.script("cnn-jax-evaluate", "--workdir=b")
    text = installed.script("cnn-jax-train", "--help")
    assert "\n  quickstart  LeNet on scikit-learn's" in text
    assert "\n  configs/other.py  " in text


@pytest.mark.slow
def test_an_installed_package_lies_outside_the_clone_and_adds_one_name(
    installed: Environment,
) -> None:
    place = Path(installed.python("-c", "import cnn_jax; print(cnn_jax.__file__)").strip()).parent
    assert not place.is_relative_to(ROOT)
    assert {path.name for path in place.parent.iterdir()} - {"others.pth", "__pycache__"} == {
        "cnn_jax",
        f"cnn_jax-{cnn_jax.__version__}.dist-info",
    }


@pytest.mark.slow
def test_a_config_of_the_user_starts_from_the_installed_ones(installed: Environment) -> None:
    given = ("--config=mine.py", "--print_config")
    assert "* seed = 3 " in installed.script("cnn-jax-train", *given)
    assert "* seed = 3 " in installed.python("-m", "cnn_jax.main", *given)


@pytest.mark.slow
def test_mypy_reads_the_types_of_the_installed_package(installed: Environment) -> None:
    (installed.directory / "typed.py").write_text(TYPED)
    flags = ("--python-executable", installed._python, "--cache-dir", "cache")
    output = installed.run(sys.executable, "-m", "mypy", *flags, "typed.py", status=1)
    assert (
        'typed.py:3: error: Incompatible types in assignment (expression has type "str"' in output
    )
    assert "Found 1 error" in output
