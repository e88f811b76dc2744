"""Tests of `runtime.imports`: objects that a config names as 'module:attribute'."""

import sys
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.runtime import imports


@pytest.fixture(autouse=True)
def in_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a temporary directory the current one and restores Python's search path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write(path: Path, text: str) -> str:
    """Writes a module of a unique name into the directory of `path` and returns the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path.stem


def test_a_module_of_the_current_directory_is_found(tmp_path: Path) -> None:
    write(tmp_path / "nets_of_this_directory.py", "class Outer:\n    class Inner:\n        pass\n")
    found = imports.load("nets_of_this_directory:Outer.Inner", "model.name")
    assert found.__qualname__ == "Outer.Inner"


def test_a_module_of_a_package_and_of_another_directory_is_found(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "package_a" / "__init__.py", "")
    write(tmp_path / "elsewhere" / "package_a" / "nets.py", "SMALL = 3\n")
    with pytest.raises(errors.NotImportableError, match="no module 'package_a'"):
        imports.load("package_a.nets:SMALL", "model.name")
    imports.search_also(tmp_path / "elsewhere")
    imports.search_also("elsewhere")
    assert sys.path.count(str(tmp_path / "elsewhere")) == 1
    assert imports.load("package_a.nets:SMALL", "model.name") == 3
    assert imports.directories()["package_a.nets"] == str(tmp_path / "elsewhere")
    assert imports.load("package_a:nets", "model.name").SMALL == 3
    assert imports.directories()["package_a"] == str(tmp_path / "elsewhere")


def test_an_installed_module_wins_over_one_of_the_directory_of_the_config(tmp_path: Path) -> None:
    write(tmp_path / "beside" / "json.py", "dumps = 3\n")
    imports.search_also(tmp_path / "beside")
    assert callable(imports.load("json:dumps", "model.name"))


@pytest.mark.parametrize("text", [":", "a:", ":b", "a b:c", "a:b:c", "a-b:c", "a:b()"])
def test_a_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(errors.UserError, match="is not of the form 'module:attribute'"):
        imports.load(text, "model.name")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "broken_0",
            None,
            r"there is no module 'broken_\d' in the current directory \(.*PYTHONPATH",
        ),
        ("broken_1", "Smal = 3\n", r"has no attribute 'Small'; nearest: Smal"),
        ("broken_2", "import not_there\n", "imports 'not_there', which is not installed"),
        ("broken_3", "1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero"),
        ("broken_4", "def f(:\n", "cannot be imported: SyntaxError"),
    ],
)
def test_an_object_that_cannot_be_imported_is_refused(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        write(tmp_path / f"{name}.py", content)
    with pytest.raises(errors.NotImportableError, match=message) as caught:
        imports.load(f"{name}:Small", "model.name")
    assert str(caught.value).startswith(f"model.name '{name}:Small': ")
