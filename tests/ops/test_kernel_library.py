"""Tests of the cache of native kernels: damage, planted files, compilers and their failures.

A fake compiler makes small libraries, because the real kernels take a minute to compile.
"""

import os
import platform
import shutil
import subprocess
import tempfile
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnn_jax.ops.native import build, library
from tests.runtime.test_ownership import give_away

# Answers the question for macros, and copies `LIBRARY` as the result of the link. Each library
# ends with other bytes, which the loader ignores, as those of a compiler that is not deterministic.
COMPILER = """#!/bin/sh
for last; do :; done
case " $* " in
  *" -dM "*) echo "#define FAKE" ;;
  *" -shared "*) echo >> {log}; cp "$LIBRARY" "$last"; echo $$ >> "$last" ;;
  *) : > "$last" ;;
esac
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with all symbols, and no code worth running."""
    path = tmp_path_factory.mktemp("made") / "made.so"
    code = "".join(f"int {name}(void) {{ return 0; }}\n" for name in library._HANDLERS)
    command = [*build.compiler(), "-x", "c", "-shared", "-fPIC", "-", "-o", str(path)]
    subprocess.run(command, input=code, text=True, check=True)
    return path


@pytest.fixture
def log(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sets the fake compiler and an empty cache; returns a file with one line for each library."""
    log = tmp_path / "log"
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER.format(log=log))
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("LIBRARY", str(made))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return log


def put(path: Path, content: bytes) -> None:
    """Puts a new file in place of a library, which this process still has in its memory.

    Writing into the file itself would end the process with a bus error.
    """
    path.unlink()
    path.write_bytes(content)


def compiled(log: Path) -> int:
    return len(log.read_text().splitlines())


def load() -> Path:
    """Loads the library; returns the only file in the directory of the cache."""
    with library.silent():
        library._stored_or_new()
    (path,) = (Path(os.environ["XDG_CACHE_HOME"]) / "cnn_jax" / "native").iterdir()
    return path


def test_the_library_is_compiled_once(log: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = os.umask(0)
    try:
        path = load()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o755
    assert load() == path
    assert compiled(log) == 1
    assert not caplog.messages


@pytest.mark.parametrize("damage", ["empty", "half", "one bit", "no kernels", "open", "link"])
def test_a_damaged_library_is_replaced(
    damage: str, log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = load()
    content = path.read_bytes()
    match damage:
        case "empty":
            put(path, b"")
        case "half":
            put(path, content[: len(content) // 2])
        case "one bit":
            put(path, bytes([content[0] ^ 1]) + content[1:])
        case "no kernels":
            other = tmp_path / "other.so"
            command = [*build.compiler(), "-x", "c", "-shared", "-fPIC", "-", "-o", str(other)]
            subprocess.run(["c++", *command[1:]], input="int x;", text=True, check=True)
            path.unlink()
            version = path.stem.partition("-")[0]
            shutil.copy(other, path.with_name(f"{version}-{library._digest(other)}.so"))
        case "open":
            path.chmod(0o777)
        case "link":
            moved = tmp_path / "elsewhere.so"
            path.rename(moved)
            path.symlink_to(moved)
    replaced = load()
    assert library._digest(replaced) in replaced.name
    assert not replaced.is_symlink()
    assert compiled(log) == 2
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "the native kernels are compiled again"
    ]
    assert load() == replaced
    assert compiled(log) == 2


def test_a_compiler_that_makes_no_kernels_leaves_nothing(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").touch()
    monkeypatch.setenv("LIBRARY", str(tmp_path / "empty"))
    # The library of this process stays loaded: XLA refuses a second copy of its kernels.
    assert library._load_once.__wrapped__() == {}
    (message,) = caplog.messages
    assert message.startswith("no native kernels, so convolutions are slower: ")
    assert not list((tmp_path / "cache" / "cnn_jax" / "native").iterdir())


def test_the_message_about_compiling_can_be_silenced(
    log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "cnn_jax compiles its CPU kernels, once"
    library._stored_or_new()
    assert capsys.readouterr().err.count(message) == 1
    load().unlink()
    load()
    assert compiled(log) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("missing", ["/nowhere/c++", ""])
def test_without_a_compiler_the_library_in_the_cache_is_not_used(
    missing: str, log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load()
    monkeypatch.setenv("CXX", missing)
    assert library._load_once.__wrapped__() == {}
    (message,) = caplog.messages
    assert message.startswith("no native kernels, so convolutions are slower: ")
    assert "looked for " + (missing or "''") in message


def test_environment_variable_disables_the_kernels(
    log: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(library.SWITCH, "0")
    assert library._load_once.__wrapped__() == {}
    assert not log.exists()
    assert not caplog.messages


def test_a_planted_library_is_not_loaded(log: Path) -> None:
    path = load()
    # The digest is right; another user could have written it while the directory was open.
    path.parent.chmod(0o777)
    assert load().parent == path.parent
    assert compiled(log) == 2
    assert path.parent.stat().st_mode & 0o022 == 0


def test_a_cache_of_another_user_is_not_used(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = load()
    own = tmp_path / "temporary"
    own.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(own))
    (tmp_path / "cache" / "cnn_jax").chmod(0o755)
    give_away(path.parent, monkeypatch)
    if os.geteuid() != 0:
        pytest.skip("requires root, for files of two users")
    library._stored_or_new()
    assert compiled(log) == 2
    directory = own / f"cnn_jax-{os.geteuid()}" / "native"
    assert len(list(directory.iterdir())) == 1
    assert caplog.messages == [
        f"{path.parent} belongs to user 12345, so the cache is {directory}; set XDG_CACHE_HOME"
    ]


def test_processes_may_compile_at_the_same_time(log: Path) -> None:
    with ThreadPoolExecutor() as threads:
        opened = [threads.submit(library._stored_or_new) for _ in range(4)]
        assert len({future.result()[1] for future in opened}) == 1
    before = compiled(log)
    library._stored_or_new()
    assert compiled(log) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("env g++ -m64", ["env", "g++", "-m64"]),
        ("sh -c 'g++ \"$@\"' x", ["sh", "-c", 'g++ "$@"', "x"]),
    ],
)
def test_cxx_is_split_as_a_shell_does(
    given: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", given)
    assert build.compiler() == [shutil.which(words[0]), *words[1:]]


@pytest.mark.parametrize(("given", "message"), [("", "looked for ''"), ("g++ '", "CXX is")])
def test_cxx_without_a_compiler_is_an_error(
    given: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", given)
    with pytest.raises(OSError, match=message):
        build.compiler()


def test_flags_in_cxx_give_another_library(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = build.compiler()
    assert build.target(command).version != build.target([*command, "-O0"]).version


def test_a_hanging_compiler_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = tmp_path / "started"
    compiler = tmp_path / "c++"  # Its child inherits the outputs and would outlive it.
    compiler.write_text(f"#!/bin/sh\nsleep 1000 & echo $! > {started}\nwait\n")
    compiler.chmod(0o755)
    monkeypatch.setattr(build, "PROBE_SECONDS", 0.5)
    with pytest.raises(OSError, match=r"c\+\+ has not ended after 0 s"):
        build.target([str(compiler)])
    status = Path(f"/proc/{started.read_text().strip()}/status")
    while status.exists() and "(zombie)" not in status.read_text():
        time.sleep(0.01)


def test_a_failing_compiler_is_named_in_one_line() -> None:
    command = ["sh", "-c", "printf 'first\\nsecond\\n' >&2; exit 3"]
    with pytest.raises(OSError, match=r"^sh failed: first second$"):
        build.run([command], 60)


def test_a_compiler_that_reads_its_input_ends() -> None:
    assert build.run([["cat"], ["echo", "two"]], 60) == ["", "two\n"]


# Other systems

REFUSING = """#!/bin/sh
case " $* " in
  *" -march=native "*|*" {also} "*) echo "clang: error: the clang compiler does not support \\
'-march=native'" >&2; exit 1 ;;
esac
echo "#define FAKE"
"""


@pytest.mark.parametrize(
    ("machine", "also", "last"),
    [
        ("arm64", "-none", "-mcpu=native"),
        ("aarch64", "-none", "-mcpu=native"),
        ("arm64", "-mcpu=native", build.FLAGS[-1]),
    ],
)
def test_a_compiler_without_march_native_gets_other_flags_on_arm64(
    machine: str, also: str, last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(REFUSING.format(also=also), encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    target = build.target([str(compiler)])
    assert target.command[0] == str(compiler)
    assert target.command[-1] == last


def test_kernels_without_vector_instructions_are_not_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text(REFUSING.format(also="-none"), encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    with pytest.raises(OSError, match="does not support '-march=native'"):
        build.target([str(compiler)])


def test_a_compiler_that_fails_otherwise_is_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    (tmp_path / "native").mkdir()  # Its error names the path of the compiler.
    compiler, log = tmp_path / "native" / "c++", tmp_path / "log"
    compiler.write_text(
        f"#!/bin/sh\necho >> {log}\necho no licence >&2\nexit 1\n", encoding="utf-8"
    )
    compiler.chmod(0o755)
    with pytest.raises(OSError, match=r"failed: no licence$"):
        build.target([str(compiler)])
    assert log.read_bytes() == b"\n"


@pytest.mark.parametrize(
    "message",
    [
        "clang: error: the clang compiler does not support '-march=native'",
        "clang: error: unsupported argument 'native' to option '-march='",
        "error: unknown target CPU 'native'",
        "cc1plus: error: unknown value `native' for `-mcpu'",
    ],
)
def test_a_refusal_of_the_flag_is_recognised(message: str) -> None:
    assert build._REFUSAL.search(message)


def test_no_compiler_is_used_on_windows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("CNN_JAX_NATIVE", raising=False)
    # Another `os.name` would change the paths of every other module.
    monkeypatch.setattr(build, "os", types.SimpleNamespace(name="nt"))
    monkeypatch.setattr(shutil, "which", lambda name: pytest.fail("looked for a compiler"))
    assert library._load_once.__wrapped__() == {}
    (message,) = caplog.messages
    assert message == (
        "no native kernels, so convolutions are slower: the native kernels have no build for "
        "Windows "
        "(XLA's operations are used; CNN_JAX_NATIVE=0 leaves out this line)"
    )


def test_a_system_without_noexec_may_run_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "ST_NOEXEC")
    assert library._allows_code(tmp_path)
