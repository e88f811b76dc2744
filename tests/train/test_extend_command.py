"""Tests of `--extend`: the command takes the config of the old run."""

from pathlib import Path
from typing import Any

import pytest

from cnn_jax import errors, main, plan, train
from cnn_jax.runs import workdir
from cnn_jax.runtime import compilation_cache
from tests.train.extended_config import WHOLE, config


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[plan.Plan]:
    """The configs with which the command calls `train.run`, which does nothing."""
    found: list[plan.Plan] = []

    def note(settings: plan.Plan, directory: Path) -> train.Outcome:
        found.append(settings)
        train.check(settings)
        return train.Outcome(WHOLE, params_sha256="ab12")

    monkeypatch.setattr(train, "run", note)
    monkeypatch.setattr(compilation_cache, "use_cache", lambda: None)
    return found


def write_config(directory: Path, **changes: Any) -> Path:
    directory.mkdir()
    workdir.save_plan(directory, config(**changes))
    return directory


def test_the_flag_takes_the_config_of_the_old_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: list[plan.Plan]
) -> None:
    monkeypatch.chdir(tmp_path)
    stored = write_config(Path("old"), **{"seed": 5, "init.extend": "older"})
    assert main.main(["--extend=old/", "--config.train.steps=20"]) == 0
    assert received == [config(**{"seed": 5, "init.extend": "old", "train.steps": 20})]
    assert [path.name[:4] for path in Path("runs").iterdir()] == ["old-"]
    # The command can be repeated, also without its changes, when the new directory has a config.
    write_config(Path("new"), **{"seed": 5, "init.extend": "old", "train.steps": 30})
    (stored / "config.json").unlink()
    assert main.main(["--extend=old", "--workdir=new"]) == 0
    assert received[1] == config(**{"seed": 5, "init.extend": "old", "train.steps": 30})
    Path("mine.py").write_text("config = {'seed': 9}")
    assert main.main(["--extend=old", "--config=mine.py", "--workdir=new"]) == 0
    assert received[2] == plan.read({"seed": 9, "init.extend": "old"})


def test_code_in_the_old_work_directory_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, received: list[plan.Plan]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_config(Path("old"), **{"model.name": "old.evil_net:Small"})
    Path("old", "evil_net.py").write_text("raise SystemExit('executed')")
    with pytest.raises(errors.UserError, match="add --trust"):
        main.main(["--extend=old", "--workdir=new"])
    with pytest.raises(SystemExit, match="executed"):
        main.main(["--extend=old", "--workdir=new", "--trust"])
