"""The command of packing, and the verification of its files."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.data.pack import verification
from cnn_jax.data.pack.__main__ import main
from cnn_jax.data.sources import shards
from tests.data.packing import REPOSITORY, pack

Run = Callable[..., int | str | None]


def test_the_command_packs_repeats_and_verifies(
    folder: Path, tmp_path: Path, exit_status: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o [u]t"
    arguments = (main, str(folder), str(out), "--shards=8")
    assert exit_status(*arguments) == 0
    printed = capsys.readouterr()
    assert f"--config.data.source=shards '--config.data.directory={out}'" in printed.out
    assert "train       25 images in 8 shards, " in printed.out
    assert "validation  5 images in 5 shards, " in printed.out
    assert printed.out.count("one image each, fewer than --shards") == 1
    assert "30/30" in printed.err
    assert exit_status(*arguments) == 0
    assert f"{out} (complete before, nothing written;" in capsys.readouterr().out
    assert exit_status(main, f"--verify={out}") == 0
    assert "checksums   all 15 files equal" in capsys.readouterr().out


def test_verification_names_damaged_files(
    folder: Path, tmp_path: Path, exit_status: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    pack(folder, out, shards=3)
    for name in ("train-00001-of-00003.array_record", "validation-labels.npy"):
        content = bytearray((out / name).read_bytes())
        content[-1] ^= 1
        (out / name).write_bytes(content)
    (out / "train-labels.npy").unlink()
    assert exit_status(main, f"--verify={out}") == 1
    message = capsys.readouterr().err
    assert f"3 of 8 files in {out} are damaged: " in message
    assert "train-labels.npy (cannot be read: No such file or directory)" in message
    assert "train-00001-of-00003.array_record (has another checksum)" in message
    assert "validation-labels.npy (has another checksum)" in message


def test_verification_needs_a_manifest(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"shards\.json cannot be read"):
        verification.verify(tmp_path, progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "missing: DIR, OUT, --shards; write python -m cnn_jax.data.pack DIR OUT --shards=N"),
        (["{folder}", "{out}"], "missing: --shards; write"),
        (["--verify={out}", "--shards=2", "--size=9"], "--verify=OUT .* takes no --shards, --size"),
        (["{folder}", "{folder}/out", "--shards=2"], "OUT .*out is inside DIR .*folder, so"),
        (["{folder}", "{folder}", "--shards=2"], "OUT .*folder is inside DIR .*folder, so"),
        (["{folder}/x", "{out}", "--shards=2"], "folder/x cannot be listed: No such file"),
    ],
)
def test_wrong_arguments_are_refused(
    folder: Path,
    tmp_path: Path,
    exit_status: Run,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    places = {"folder": folder, "out": tmp_path / "out"}
    assert exit_status(main, *(argument.format(**places) for argument in arguments)) == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_help_loads_no_jax() -> None:
    script = (
        "import runpy, sys\n"
        "sys.argv = ['pack', '--help']\n"
        "try:\n"
        "    runpy.run_module('cnn_jax.data.pack', run_name='__main__')\n"
        "except SystemExit as error:\n"
        "    assert not error.code\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, capture_output=True)


def test_the_manifest_names_every_file(folder: Path, tmp_path: Path) -> None:
    manifest = pack(folder, tmp_path / "out", shards=2).manifest
    assert shards.read_manifest(tmp_path / "out") == manifest
    names = {file.name for file in manifest.files} | {shards.MANIFEST}
    assert names == {path.name for path in (tmp_path / "out").iterdir()}
    assert json.loads((tmp_path / "out" / shards.MANIFEST).read_text())["format"] == 1
