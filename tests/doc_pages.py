"""Blocks of README.md and docs/*.md, and checks of their Python code and of their links."""

import ast
import inspect
import itertools
import re
import textwrap
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

COMMAND_LANGUAGES = ("", "bash", "console", "sh")
DOWNLOADS = "# needs a download"
CONTINUES = "# continues the block above"

_FENCE = re.compile(r" *(```+) *([\w-]*)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"#+ (.*)")
_FILE_NAME = re.compile(r"# (\w+\.py)")


class Block(NamedTuple):
    """A fenced code block.

    Attributes:
      page: file that contains the block.
      line: number of the line with the opening fence.
      language: word after the fence, or empty.
      lines: content.
    """

    page: Path
    line: int
    language: str
    lines: tuple[str, ...]

    @property
    def label(self) -> str:
        """`page:line`; the page is relative to the repository."""
        return location(self.page, self.line)

    def has_marker(self, marker: str) -> bool:
        """Returns True if `marker` is among the comment lines at the start of the block."""
        comments = itertools.takewhile(lambda line: line.startswith("#"), self.lines)
        return marker in comments

    @property
    def file(self) -> str:
        """The name of the file that the block is; empty for other blocks."""
        name = _FILE_NAME.fullmatch(self.lines[0])
        return name[1] if name else ""


def location(page: Path, line: int) -> str:
    shown = page.relative_to(ROOT) if page.is_relative_to(ROOT) else page
    return f"{shown}:{line}"


def split_page(page: Path) -> tuple[list[Block], list[tuple[int, str]]]:
    """Returns the code blocks of a page, and its other lines with their numbers."""
    blocks, prose = [], []
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        opening = _FENCE.match(line)
        if opening is None:
            prose.append((number, line))
            continue
        fence, language = opening.groups()
        content = []
        while (inner := next(lines, None)) is not None and inner[1].strip() != fence:
            content.append(inner[1])
        assert inner is not None, f"{location(page, number)}: the block has no end"
        code = textwrap.dedent("\n".join(content))
        blocks.append(Block(page, number, language, tuple(code.split("\n"))))
    return blocks, prose


BLOCKS = [block for page in PAGES for block in split_page(page)[0]]
PYTHON_BLOCKS = [block for block in BLOCKS if block.language == "python"]
FILES = {block.file for block in PYTHON_BLOCKS if block.file}


# Python blocks


def source_of(block: Block, blocks: Sequence[Block]) -> str:
    """Returns the code with its line numbers in the page, after the blocks that it continues."""
    lines: list[str] = []
    for part in chain(block, blocks):
        lines += [""] * (part.line - len(lines))
        lines += part.lines
    return "\n".join(lines)


def last_blocks(blocks: Sequence[Block]) -> list[Block]:
    """Returns the blocks that are not executed as a part of another one, which continues them."""
    continued = [
        above
        for above, block in itertools.pairwise(blocks)
        if block.has_marker(CONTINUES) and not block.has_marker(DOWNLOADS)
    ]
    return [block for block in blocks if block not in continued]


def files_above(block: Block, blocks: Sequence[Block]) -> list[Block]:
    return [one for one in blocks if one.file and one.page == block.page and one.line < block.line]


def chain(block: Block, blocks: Sequence[Block]) -> list[Block]:
    if not block.has_marker(CONTINUES):
        return [block]
    above = [other for other in blocks if other.page == block.page and other.line < block.line]
    assert above, f"{block.label}: there is no Python block above to continue"
    return [*chain(above[-1], blocks), block]


def execute(source: str, page: Path) -> dict[str, Any]:
    """Executes code of a page and returns its names; an error names the line of the page."""
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(source, str(page), "exec"), names)
    except SyntaxError as error:
        raise AssertionError(f"{location(page, error.lineno or 0)}: {error!r}") from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next(frame.lineno for frame in reversed(frames) if frame.filename == str(page))
        raise AssertionError(f"{location(page, line or 0)}: {error!r}") from error
    return names


def check_names(source: str, page: Path) -> None:
    """Checks that names imported from cnn_jax exist and that calls fit their signatures."""
    tree = ast.parse(source, str(page))
    imported: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cnn_jax"):
            imported |= execute("\n" * (node.lineno - 1) + ast.unparse(node), page)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = imported.get(node.value.id)
            assert owner is None or hasattr(owner, node.attr), (
                f"{location(page, node.lineno)}: {node.value.id} has no {node.attr!r}"
            )
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node, imported, page)


def _check_call(call: ast.Call, imported: Mapping[str, Any], page: Path) -> None:
    match call.func:
        case ast.Attribute(value=ast.Name(id=owner), attr=name) if owner in imported:
            function = getattr(imported[owner], name)
        case ast.Name(id=name) if name in imported:
            function = imported[name]
        case _:
            return
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    try:
        inspect.signature(function).bind(*call.args, **keywords)
    except TypeError as error:
        raise AssertionError(f"{location(page, call.lineno)}: {name}: {error}") from error


# Links


def slug(heading: str) -> str:
    """Returns the fragment that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def check_links(page: Path) -> None:
    """Checks that the relative links of a page lead to files and headings."""
    for number, line in split_page(page)[1]:
        for link in _LINK.findall(line):
            if "://" in link or link.startswith("mailto:"):
                continue
            path, _, fragment = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{location(page, number)}: there is no {link}"
            if fragment and target.suffix == ".md":
                headings = [_HEADING.fullmatch(text) for _, text in split_page(target)[1]]
                slugs = [slug(heading[1]) for heading in headings if heading]
                assert fragment in slugs, f"{location(page, number)}: there is no heading {link}"
