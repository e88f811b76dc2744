"""Tests of `runtime.ownership`: directories that no other user can change."""

import os
import stat
from pathlib import Path

import pytest

from cnn_jax.runtime import ownership


def give_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `path` belong to another user than the one of this process."""
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_missing_directories_are_created_for_the_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        made = ownership.private_directory(tmp_path / "new", "cnn_jax", "native")
    finally:
        os.umask(before)
    assert made == tmp_path / "new" / "cnn_jax" / "native"
    assert [mode(path) for path in (made, *made.parents)][:3] == [0o700] * 3
    assert ownership.private_directory(tmp_path / "new", "cnn_jax", "native") == made


def test_an_open_directory_is_closed_and_emptied(tmp_path: Path) -> None:
    made = ownership.private_directory(tmp_path, "cnn_jax", "native")
    kept = made.parent / "of the parent"
    kept.touch()
    (made / "planted.so").touch()
    (made / "planted").mkdir()
    (made / "link").symlink_to(kept)
    made.parent.chmod(0o757)
    made.chmod(0o1777)
    assert ownership.private_directory(tmp_path, "cnn_jax", "native") == made
    assert [mode(made), mode(made.parent)] == [0o1755, 0o755]
    assert not list(made.iterdir())
    assert kept.exists()


@pytest.mark.parametrize(("bits", "is_allowed"), [(0o777, False), (0o1777, True), (0o755, True)])
def test_a_directory_above_may_be_open_only_with_the_sticky_bit(
    bits: int, is_allowed: bool, tmp_path: Path
) -> None:
    tmp_path.chmod(bits)
    if is_allowed:
        assert ownership.private_directory(tmp_path, "native") == tmp_path / "native"
    else:
        with pytest.raises(ownership.ExposedError, match="writable by other users"):
            ownership.private_directory(tmp_path, "native")


@pytest.mark.parametrize("above", [True, False])
def test_a_directory_of_another_user_is_refused(
    above: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ownership.private_directory(tmp_path, "cnn_jax", "native")
    give_away(made.parent if above else made, monkeypatch)
    with pytest.raises(ownership.ExposedError, match="belongs to user"):
        ownership.private_directory(tmp_path, "cnn_jax", "native")


def test_a_link_is_followed_and_its_target_judged(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "mine").touch()
    (tmp_path / "native").symlink_to(shared, target_is_directory=True)
    assert ownership.private_directory(tmp_path, "native") == shared
    shared.chmod(0o1777)
    with pytest.raises(ownership.ExposedError, match="shared is writable by other users"):
        ownership.private_directory(tmp_path, "native")
    assert mode(shared) == 0o1777
    assert (shared / "mine").exists()


def test_group_of_the_user_alone_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o775)
    monkeypatch.setattr(ownership, "_is_own_group", lambda group: group == os.getegid())
    assert ownership.private_directory(tmp_path, "native")
    monkeypatch.setattr(ownership, "_is_own_group", lambda group: False)
    with pytest.raises(ownership.ExposedError):
        ownership.private_directory(tmp_path, "native")


def test_files_must_be_private_and_no_links(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.touch(0o644)
    ownership.require_private(file)
    link = tmp_path / "link.so"
    link.symlink_to(file)
    with pytest.raises(ownership.ExposedError, match="symbolic link"):
        ownership.require_private(link)
    file.chmod(0o646)
    with pytest.raises(ownership.ExposedError, match=r"mode 646"):
        ownership.require_private(file)


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cnn_jax").touch()
    with pytest.raises(NotADirectoryError):
        ownership.private_directory(tmp_path, "cnn_jax", "native")
