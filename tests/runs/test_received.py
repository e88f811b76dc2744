"""A work directory from somebody else is data, never code, and its links are not followed."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, evaluate, plan, predict, predictor
from cnn_jax.evaluators import of_run
from cnn_jax.runs import descriptions, environment, workdir
from cnn_jax.runtime import imports

STORED = Path(__file__).parents[1] / "stored_runs" / "e1b8c15" / "mlp"
PAYLOAD = "import pathlib\npathlib.Path('RAN').touch()\nraise RuntimeError('code ran')\n"

ExitStatus = Callable[..., int | str | None]


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a temporary directory the current one and restores Python's search path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.fixture
def received(cwd: Path) -> Path:
    """A work directory below the current one."""
    return Path(shutil.copytree(STORED, cwd / "runs" / "evil"))


def change(directory: Path, **values: Any) -> None:
    """Replaces values of config.json; the names have '__' in place of '.'."""
    path = directory / workdir.CONFIG
    content = json.loads(path.read_text())
    for name, value in values.items():
        section, key = name.split("__")
        content[section][key] = value
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("key", "load"),
    [
        ("model__name", predictor.load),
        ("model__name", lambda directory: of_run.run(directory, "test")),
        ("train__loss", predictor.load),
        ("data__source", lambda directory: of_run.run(directory, "test")),
    ],
)
@pytest.mark.parametrize("place", ["runs/evil", "photos"])
def test_a_module_in_the_work_directory_or_the_data_is_not_imported(
    received: Path, key: str, load: Callable[[Path], Any], place: str
) -> None:
    folder = received.parents[1] / place
    folder.mkdir(exist_ok=True)
    (folder / "payload.py").write_text(PAYLOAD)
    name = f"{place.replace('/', '.')}.payload:Net"
    change(received, data__directory="photos", **{key: name})
    with pytest.raises(errors.UserError, match=rf"{name}' is not imported: .*{place}.*--trust"):
        load(received)
    assert not Path("RAN").exists()


def test_the_package_of_a_module_is_not_executed_either(received: Path) -> None:
    package = received / "package"
    package.mkdir()
    (package / "__init__.py").write_text(PAYLOAD)
    (package / "nets.py").touch()
    change(received, model__name="runs.evil.package.nets:Net")
    with pytest.raises(errors.UserError, match=r"package/__init__\.py lies in"):
        predictor.load(received)
    assert not Path("RAN").exists()


@pytest.mark.parametrize("is_link_inside", [True, False])
def test_links_into_and_out_of_a_work_directory_are_resolved(
    received: Path, cwd: Path, is_link_inside: bool
) -> None:
    inside, own = received / "linked_payload.py", cwd / "linked_payload.py"
    file, link = (own, inside) if is_link_inside else (inside, own)
    file.write_text(PAYLOAD)
    link.symlink_to(file)
    module = "runs.evil.linked_payload" if is_link_inside else "linked_payload"
    with imports.outside([received]), pytest.raises(errors.UserError, match="is not imported"):
        imports.load(f"{module}:Net", "model.name")
    assert not Path("RAN").exists()


def test_a_module_of_python_itself_is_refused() -> None:
    with imports.outside([]), pytest.raises(errors.UserError, match="os is a part of Python"):
        imports.load("os:system", "data.source")


def test_the_current_directory_and_what_is_elsewhere_are_the_users_own(
    received: Path, cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (cwd / "nets_of_the_user.py").write_text("Net = 3\n")
    # The data set lies in the current directory, or the other way round.
    for directory in ("", ".", "..", "/", "~nobody/x", "a\0b", "nowhere"):
        with imports.outside([received, directory]):
            assert imports.load("nets_of_the_user:Net", "model.name") == 3
    with imports.outside([received]):
        assert imports.load("cnn_jax.losses:make", "loss.name")
    monkeypatch.chdir(received)  # As for Python itself; SECURITY.md says so.
    (received / "nets_beside_the_run.py").write_text("Net = 4\n")
    with imports.outside([received]):
        assert imports.load("nets_beside_the_run:Net", "model.name") == 4


@pytest.mark.parametrize("command", [evaluate, predict])
def test_trust_imports_from_everywhere(
    received: Path, exit_status: ExitStatus, capsys: pytest.CaptureFixture[str], command: Any
) -> None:
    (received / "payload.py").write_text(PAYLOAD)
    change(received, model__name="runs.evil.payload:Net")
    arguments = [f"--workdir={received}", *(["a.png"] if command is predict else [])]
    Path("a.png").touch()
    assert exit_status(command.main, *arguments) == 1
    message = capsys.readouterr().err
    assert "is not imported" in message
    assert message.count("\n") == 1
    assert not Path("RAN").exists()
    assert exit_status(command.main, *arguments, "--trust") == 1
    assert "cannot be imported: RuntimeError: code ran" in capsys.readouterr().err
    assert Path("RAN").exists()


def test_a_continued_run_takes_no_code_from_the_stored_config(received: Path) -> None:
    stored = workdir.load_plan(received)
    change(received, data__source="runs.evil.payload:source")
    given = plan.read({**plan.to_dict(stored), "data.source": "auto"})
    with pytest.raises(errors.UserError, match=r"config has 'auto'; if you trust it, add --conf"):
        workdir.check(received, given)


LINKS = [
    *(workdir.CONFIG, workdir.DATASET, workdir.METRICS, workdir.CURVES, "environment.json"),
    *(".lock", workdir.DAMAGED_CHECKPOINTS, "splits", "events.out.tfevents.1.host"),
    "checkpoints/30",
]


@pytest.mark.parametrize("name", LINKS)
def test_a_link_in_place_of_a_file_of_the_run_is_refused(received: Path, name: str) -> None:
    stored, path = workdir.load_plan(received), received / name
    target = received.parent / "target"
    if path.exists():
        path.rename(target)
    elif name in (workdir.DAMAGED_CHECKPOINTS, "splits"):
        target.mkdir()
    else:
        target.write_text("mine")
    path.symlink_to(target)
    content = None if target.is_dir() else target.read_bytes()
    words = "Too many levels of symbolic links" if name == ".lock" else f"has links .*: {name};"
    with pytest.raises(errors.UserError, match=words):
        workdir.check(received, stored)
    assert content is None or target.read_bytes() == content


def test_checkpoints_may_be_a_link_to_another_disk(received: Path) -> None:
    stored = workdir.load_plan(received)
    folder = (received / workdir.CHECKPOINTS).rename(received.parent / "other")
    (received / workdir.CHECKPOINTS).symlink_to(folder)
    assert workdir.check(received, stored) == stored


DESCRIPTION = {
    "class_names": ["cat", "dog"],
    "native_size": None,
    "input_shape": [8, 8, 1],
    "mean": [0.5],
    "std": [0.25],
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"class_names": "cat"}, "class_names must be a list of texts, got 'cat'"),
        ({"class_names": ["a", 1]}, "class_names must be a list of texts"),
        ({"native_size": [8]}, "native_size must be null, or height and width"),
        ({"native_size": [100_000, 8]}, "native_size must be null, or height and width"),
        ({"input_shape": [8, 8]}, "input_shape must be height, width and channels"),
        ({"input_shape": [8, 8, True]}, "input_shape must be height, width and channels"),
        ({"input_shape": [60_000, 60_000, 3]}, "with at most 50,331,648 values"),
        ({"mean": [float("nan")]}, "mean must be a list of finite numbers"),
        ({"mean": {"a": 1}}, "mean must be a list of finite numbers"),
        ({"mean": [0.5, 0.5]}, "mean and std must have a value for each of the 1 channels"),
        ({"std": [0]}, "std must be a list of finite numbers greater than 0"),
        ({"std": [-1.0]}, "std must be a list of finite numbers greater than 0"),
        ({"std": ["x"]}, "std must be a list of finite numbers greater than 0"),
        ({"peak": 0}, "peak must be a finite number greater than 0"),
        ({"sizes": {"train": "x"}}, "sizes must be counts by split"),
        ({"hashes": 3}, "hashes must be texts by split"),
        ({"colour": "red"}, "it has an unknown entry 'colour'"),
    ],
)
def test_a_stored_description_is_checked(changes: dict[str, Any], words: str) -> None:
    assert descriptions.parse(json.dumps(DESCRIPTION)).class_names == ("cat", "dog")
    with pytest.raises(ValueError, match=words):
        descriptions.parse(json.dumps({**DESCRIPTION, **changes}))


@pytest.mark.parametrize("name", [workdir.CONFIG, workdir.DATASET])
@pytest.mark.parametrize("kind", ["deep", "list", "fifo", "directory", "bytes", "empty", "null"])
def test_stored_json_of_another_shape_is_one_line(received: Path, name: str, kind: str) -> None:
    path = received / name
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        texts = {"deep": b'{"a":' * 50_000, "list": b"[1]", "bytes": b"\xff\xfe", "null": b"null"}
        path.write_bytes(texts.get(kind, b""))
    for load in (predictor.load, lambda directory: of_run.run(directory, "test")):
        with pytest.raises(
            errors.UserError, match=rf"{name} (is damaged|cannot be read): "
        ) as told:
            load(received)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "text", ["[]", '{"starts": 3}', '{"starts": ["x"]}', "{", '{"a":' * 50_000]
)
def test_a_damaged_environment_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / workdir.ENVIRONMENT).write_text(text)
    with pytest.raises(errors.UserError, match=r"json is damaged: .*; move it away to continue"):
        environment.read(tmp_path)
