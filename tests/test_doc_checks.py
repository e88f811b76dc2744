"""The checks of pages find mistakes and name their file and line."""

import re
from pathlib import Path

import pytest

from tests.doc_commands import check_commands, commands_of
from tests.doc_pages import (
    CONTINUES,
    DOWNLOADS,
    ROOT,
    Block,
    check_links,
    check_names,
    execute,
    last_blocks,
    source_of,
    split_page,
)

GOOD_COMMANDS = """\
pip install -r requirements.txt && python -m cnn_jax.main --config=configs/quickstart.py
python -m cnn_jax.main --config=configs/NAME.py [--config.SECTION.KEY=VALUE ...]
CNN_JAX_NATIVE=0 python -m cnn_jax.main --config=quickstart:smoke \\
    --config.model.activation=tanh --config.optim.learning_rate=0.02 > log.txt
WEIGHTS=$(python -c 'print(f"({1})")')/images
"""


def test_good_commands_pass() -> None:
    block = Block(ROOT / "page.md", 1, "", tuple(GOOD_COMMANDS.splitlines()))
    commands = commands_of(block)
    assert [command.label for command in commands] == [
        f"page.md:{line}" for line in (2, 2, 3, 4, 6)
    ]
    check_commands(block)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("python -m cnn_jax.nothing", "there is no module cnn_jax.nothing"),
        ("python -m cnn_jax.nothing.more", "there is no module cnn_jax.nothing.more"),
        ("python -m cnn_jax.models", "there is no module cnn_jax.models, or it is a package"),
        ("python -m cnn_jax.summary lenet --cvs=FILE", "cnn_jax.summary has no flag --cvs"),
        ("python -m cnn_jax.main --config=configs/resnet51.py", "there is no configs/resnet51.py"),
        ("python -m cnn_jax.main --config.optim.rate=1", "no config key optim.rate"),
        ("python -m cnn_jax.main --config.model.rate=1", "no config key model.rate"),
        ("python -m cnn_jax.main --config=configs/resnet50.py:full", "unknown variant"),
        ("pip install -r needed.txt", "there is no needed.txt"),
        ("test top1: 0.98", "unknown program 'test'"),
        ("python -c 'x", "No closing quotation"),
    ],
)
def test_a_bad_command_fails_with_file_and_line(line: str, message: str) -> None:
    block = Block(ROOT / "page.md", 7, "console", (f"$ {line}",))
    with pytest.raises(AssertionError, match=re.escape(f"page.md:8: {message}")):
        check_commands(block)


@pytest.mark.parametrize(
    ("marker", "code", "message"),
    [
        ("", "zero = 0\n1 / zero", "page.md:3: ZeroDivisionError"),
        ("", "zero = 0\n1 //", "page.md:3: SyntaxError"),
        (DOWNLOADS, "from cnn_jax import nothing", "page.md:3: ImportError"),
        (DOWNLOADS, "from cnn_jax import models\nmodels.make()", "page.md:4: models has no 'make'"),
        (DOWNLOADS, "from cnn_jax import models\nmodels.create()", "page.md:4: create: missing"),
    ],
)
def test_a_bad_python_block_fails_with_file_and_line(marker: str, code: str, message: str) -> None:
    text = f"{marker}\n{code}" if marker else code
    block = Block(ROOT / "page.md", 1, "python", tuple(text.splitlines()))
    check = check_names if marker else execute
    with pytest.raises(AssertionError, match=re.escape(message)):
        check(source_of(block, [block]), block.page)


def test_a_block_without_an_end_fails_with_file_and_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("1. Indented:\n\n   ```python\n   x = 1\n   ```\n\n```\npip install x\n")
    with pytest.raises(AssertionError, match=re.escape("page.md:7: the block has no end")):
        split_page(page)
    page.write_text(page.read_text() + "```\n")
    assert [(block.line, block.lines) for block in split_page(page)[0]] == [
        (3, ("x = 1",)),
        (7, ("pip install x",)),
    ]


def test_a_block_continues_the_block_above() -> None:
    first = Block(ROOT / "page.md", 3, "python", ("number = 1",))
    second = Block(ROOT / "page.md", 7, "python", (CONTINUES, "assert number == 2"))
    with pytest.raises(AssertionError, match=re.escape("page.md:9: AssertionError")):
        execute(source_of(second, [first, second]), second.page)
    assert last_blocks([first, second]) == [second]


def test_a_broken_link_fails_with_file_and_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Speed on a CPU\n\n[here](#speed-on-a-cpu) and [there](other.md)\n")
    with pytest.raises(AssertionError, match=re.escape("page.md:3: there is no other.md")):
        check_links(page)
