"""Tests of `runtime.files` and of the flags for paths: local paths, reading and writing."""

import argparse
import os
import secrets
import socket
import stat
from pathlib import Path

import pytest

from cnn_jax import errors
from cnn_jax.runtime import files, flags


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes a temporary directory the current one, and one below it the home directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_home_directory_is_inserted(home: Path) -> None:
    assert files.local("~/run", "--workdir") == home / "run"
    assert files.local("~", "--workdir") == home
    for path in ("run/~/x", "./~", "/a:b/c", "a b", "timm/resnet50", "hf-hub:timm/x", ""):
        assert files.local(path, "--workdir") == Path(path)


@pytest.mark.parametrize(
    "address",
    [
        *("gs://b/run", "s3://b", "https://x/y", "file:///tmp/x", "hdfs://h/x"),
        Path("gs://bucket/run"),
    ],
)
def test_an_address_is_refused(address: str | Path) -> None:
    with pytest.raises(errors.UserError, match=r"^--workdir '.*' is an address; only local paths"):
        files.local(address, "--workdir")


def test_a_directory_that_is_called_like_a_scheme_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "gs:").mkdir()
    assert files.local("gs:/run", "--workdir") == Path("gs:/run")


def test_an_unknown_home_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"no home directory ~nobody-here; write \./~nob"):
        files.local("~nobody-here/x", "IMAGE")
    (tmp_path / "~$draft.png").touch()
    assert files.local("~$draft.png", "IMAGE") == Path("~$draft.png")


def test_a_zero_byte_is_refused() -> None:
    with pytest.raises(errors.UserError, match=r"'a\\x00b' has a zero byte"):
        files.local("a\0b", "data.directory")


def test_flags_store_paths_and_keep_the_message_of_an_address(home: Path) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("image", nargs="*", action=flags.StorePath)
    parser.add_argument("--out", action=flags.StorePath)
    given = parser.parse_args(["~/a.png", "b.png", "--out=~/c.csv"])
    assert (given.image, given.out) == ([home / "a.png", Path("b.png")], home / "c.csv")
    with pytest.raises(errors.UserError, match=r"^--out 's3://b/c\.csv' is an address"):
        parser.parse_args(["a.png", "--out=s3://b/c.csv"])
    with pytest.raises(errors.UserError, match=r"^IMAGE 'gs://b/a\.png' is an address"):
        parser.parse_args(["gs://b/a.png"])


def test_only_regular_files_of_limited_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert files.read(tmp_path / "link", most=5) == b"12345"
    with pytest.raises(errors.UserError, match="has 5 bytes, more than the limit of 4"):
        files.read(tmp_path / "file", most=4)
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "nothing", most=4)
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        for name in ("fifo", "socket", "/dev/zero", "."):
            with pytest.raises(errors.UserError, match=f"{name} cannot be read: "):
                files.read(Path(name), most=4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff{}", "no text in UTF-8"),
        (b"{", "not JSON: "),
        (b"9" * 5000, "not JSON: "),
        (b"[]", "not a JSON object but list"),
    ],
    ids=range(6),
)
def test_damaged_json_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(errors.UserError, match=rf"a\.json is damaged: .*{words}"):
        files.read_json(tmp_path / "a.json", most=2**20)


def test_a_file_is_replaced_whole_and_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    before = os.umask(0o027)
    try:
        files.write(path, "old")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with pytest.raises(errors.UserError, match="full"), files.replacing(path, ".png") as temporary:
        raise OSError(f"disk full: {temporary.write_text('new')}")
    assert path.read_text() == "old"
    files.write(path, b"new")
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["file.json"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("mine")
    for name in ("file", "file.tmp", ".file.tmp"):
        (tmp_path / name).symlink_to("target")
    files.write(tmp_path / "file", "new")
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "file").read_text() == "new"
    assert not (tmp_path / "file").is_symlink()


def test_a_file_of_the_predicted_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda _: "0")
    (tmp_path / "target").write_text("mine")
    (tmp_path / ".file.0.tmp").symlink_to("target")
    with pytest.raises(errors.UserError, match="file cannot be written: File exists"):
        files.write(tmp_path / "file", "new")
    assert (tmp_path / "target").read_text() == "mine"


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / "a", Path("/dev/null/a"), Path("/proc/a")):
        with pytest.raises(errors.UserError, match=f"^{path} cannot be written: "):
            files.write(path, "")
