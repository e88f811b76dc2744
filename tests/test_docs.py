"""Code blocks, commands and links of README.md and docs/*.md.

Rules for a page; each failure names the file and the line:

- A `python` block is executed on its own. The first line `# continues the block above` gives it the
  names of the block above. A block with the first line `# needs a download` is not executed: only
  its imports of cnn_jax and the arguments of its calls to cnn_jax are checked.
- A `python` block with a line of `SLOW_LINES` is executed by the slow tests. The fast tests check
  its imports of cnn_jax and the arguments of its calls.
- A `python` block with the first line `# FILE.py` is this file. The blocks below it find the file
  in the current directory, and commands may name it as their config.
- A `console`, `bash`, `sh` or unlabelled block contains commands, which are not run. Their modules,
  flags, config files and config keys must exist. Words in capitals, such as DIR, are placeholders.
  Where lines start with the prompt `$`, the other lines are output.
- A `text` block contains output.
- A relative link leads to a file and, with a fragment, to one of its headings.

The table of config keys in docs/training.md equals `config_key_table()`.
"""

import ast
import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import itertools
import re
import runpy
import shlex
import sys
import textwrap
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ml_collections import ConfigDict

from cnn_jax import config_files, errors, models, plan

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

COMMAND_LANGUAGES = ("", "bash", "console", "sh")
OTHER_LANGUAGES = ("json", "text", "toml", "yaml")
DOWNLOADS = "# needs a download"
CONTINUES = "# continues the block above"
PROMPT = "$ "
# Programs that commands may start. Only those of Python are checked further.
PROGRAMS = (
    *("apt-get", "bash", "cd", "docker", "export", "git", "mkdir", "mpirun", "pip", "pre-commit"),
    *("pytest", "python", "python3", "source", "srun", "tensorboard"),
)
OWN_PACKAGES = ("cnn_jax", "experiments")

_FENCE = re.compile(r" *(```+) *([\w-]*)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
_HELP_FLAG = re.compile(r"^\s+(?:-\w(?: \w+)?, )?--(?:\[no\])?(\w[\w-]*)", re.MULTILINE)
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


class Command(NamedTuple):
    """A simple command: no pipes, lists or substitutions.

    Attributes:
      label: `page:line` of its first line.
      words: program and arguments.
    """

    label: str
    words: tuple[str, ...]


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
# Lines of the blocks that are executed by the slow tests only, because each takes seconds; others
# execute the same functions. Fast tests check the names and calls of these blocks.
SLOW_LINES = (
    "from cnn_jax import data, evaluators, plan, predictor, runs, train",
    "classifier = train_step(classifier, images, jnp.array([0, 1, 2, 0]))",
    'directory = Path("run/checkpoints").absolute()',
    'export.to_safetensors(network, "weights", license_name="mit")',
    'found = features.of_folder(network, f"{sklearn.datasets.__path__[0]}/images")',
    'found = inspect.grad_cam(network, inputs, "palace")',
    'gradients = jax.jit(jax.vmap(jax.grad(loss)))(variables)["params"]',
    "import my_config",
    "logits = lite0.model.apply(lite0.variables, images, train=False)  # [1, 1000] float32",
    "loss = train_step(module, optimizer)",
    'program = jax.export.deserialize(Path("network.jax").read_bytes())',
    'session = onnxruntime.InferenceSession("network.onnx")',
    "stages = models.features(model, variables, images)",
    'table = pandas.DataFrame(runs.read("runs"))',
    "    loaded = export.deserialize(file.read())",
)
COMMAND_BLOCKS = [block for block in BLOCKS if block.language in COMMAND_LANGUAGES]


# Python blocks


def source_of(block: Block, blocks: Sequence[Block]) -> str:
    """Returns the code with its line numbers in the page, after the blocks that it continues."""
    lines: list[str] = []
    for part in _chain(block, blocks):
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


def _files_above(block: Block, blocks: Sequence[Block]) -> list[Block]:
    return [one for one in blocks if one.file and one.page == block.page and one.line < block.line]


def _chain(block: Block, blocks: Sequence[Block]) -> list[Block]:
    if not block.has_marker(CONTINUES):
        return [block]
    above = [other for other in blocks if other.page == block.page and other.line < block.line]
    assert above, f"{block.label}: there is no Python block above to continue"
    return [*_chain(above[-1], blocks), block]


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


LAST_BLOCKS = last_blocks(PYTHON_BLOCKS)


# Commands


def commands_of(block: Block) -> list[Command]:
    """Returns the simple commands of a block in order, those within `$(...)` included."""
    return [
        Command(label, words)
        for label, line in _command_lines(block)
        for words in _simple_commands(label, line)
    ]


def _command_lines(block: Block) -> Iterator[tuple[str, str]]:
    """Yields the commands of a block, joined over backslashes at line ends, with their labels."""
    prompts = any(line.startswith(PROMPT) for line in block.lines)
    lines = enumerate(block.lines, block.line + 1)
    for number, line in lines:
        if not line.strip() or (prompts and not line.startswith(PROMPT)):
            continue
        command = line.removeprefix(PROMPT)
        while command.endswith("\\"):
            command = command[:-1] + next(lines, (0, ""))[1]
        yield location(block.page, number), command


def _simple_commands(label: str, line: str) -> Iterator[tuple[str, ...]]:
    outer: list[list[str]] = []  # the commands around a substitution
    words: list[str] = []
    before = ""
    for token in [*_tokens(label, line), ";"]:
        is_rest = before == ")" and token.startswith("/")  # of a word that begins with $(...)
        if token == "(":
            outer.append(words)
            words = []
        elif set(token) <= set(";|&)"):
            yield from _without_assignments(words)
            words = outer.pop() if token == ")" and outer else []
        elif not (_is_redirection(token) or _is_redirection(before) or is_rest):
            words.append(token)
        before = token


def _tokens(label: str, line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError as error:  # an open quotation
        raise AssertionError(f"{label}: {error}") from error


def _is_redirection(token: str) -> bool:
    return re.fullmatch("&?[<>]+[&|]?", token) is not None


def _without_assignments(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    command = tuple(itertools.dropwhile(_ASSIGNMENT.match, words))
    if command:
        yield command


def check_commands(block: Block) -> None:
    """Checks the commands of a block, and fails with the line of one that cannot work."""
    for command in commands_of(block):
        _check_command(command)


def _check_command(command: Command) -> None:
    program, *arguments = command.words
    assert program in PROGRAMS, (
        f"{command.label}: unknown program {program!r}; put output into a text block, or add the"
        " program to PROGRAMS"
    )
    match program, arguments:
        case "python" | "python3", ["-m", module, *rest]:
            _check_module(command.label, module, rest)
        case "python" | "python3", ["-c", code, *_]:
            ast.parse(code, command.label)
        case "python" | "python3", [script, *_]:
            _check_file(command.label, script)
        case "pip", ["install", *rest]:
            for option, value in itertools.pairwise(rest):
                if option in ("-r", "-e"):
                    _check_file(command.label, value)


def _check_file(label: str, name: str) -> None:
    assert _is_placeholder(Path(name).stem) or name in FILES or (ROOT / name).exists(), (
        f"{label}: there is no {name}"
    )


def _is_placeholder(word: str) -> bool:
    return _PLACEHOLDER.fullmatch(word) is not None


def _check_module(label: str, module: str, arguments: Sequence[str]) -> None:
    assert _can_run(module), (
        f"{label}: there is no module {module}, or it is a package without main"
    )
    if module.partition(".")[0] not in OWN_PACKAGES:
        return
    words = [word.strip("[]") for word in arguments]
    if not words:  # Scripts without flags print no help.
        return
    known = _flags(module, _subcommand(module, words))
    for word in words:
        flag, _, value = word.partition("=")
        if flag.startswith("--config."):
            _check_key(label, flag.removeprefix("--config."), words)
        elif flag.startswith("--"):
            assert flag[2:] in known, f"{label}: {module} has no flag {flag}"
        if flag == "--config":
            _config(label, value)


def _can_run(module: str) -> bool:
    """Returns True if `python -m` finds the module, or `__main__` of the package."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # of a package around it
        return False
    if spec is None or spec.submodule_search_locations is None:
        return spec is not None
    return importlib.util.find_spec(f"{module}.__main__") is not None


def _run_module(module: str) -> None:
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):  # It may be imported.
        runpy.run_module(module, run_name="__main__", alter_sys=True)


@functools.cache
def _help(module: str, *subcommand: str) -> str:
    """Returns the help of `python -m module`, which runs in this process to save time."""
    command = [module, *subcommand, "--help"]
    output = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            _run_module(module)
    assert caught.value.code == 0, f"{' '.join(command)} has the status {caught.value.code}"
    assert _HELP_FLAG.search(output.getvalue()), f"{' '.join(command)} prints no help"
    return output.getvalue()


def _subcommand(module: str, words: Sequence[str]) -> tuple[str, ...]:
    """Returns the first argument in a tuple if the help of the module lists it as a command."""
    first = next(iter(words), "")
    listed = first.isidentifier() and re.search(rf"^ +{first}  ", _help(module), re.MULTILINE)
    return (first,) if listed else ()


def _flags(module: str, subcommand: tuple[str, ...]) -> frozenset[str]:
    return frozenset(_HELP_FLAG.findall(_help(module, *subcommand)))


def _check_key(label: str, key: str, words: Sequence[str]) -> None:
    if any(map(_is_placeholder, key.split("."))):
        return
    options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    config = _config(label, options.get("config", "configs/base.py"))
    network = options.get("config.model.name", config.model.name)
    assert _has_key(config, key) or _is_option(key, network), f"{label}: no config key {key}"


def _has_key(config: ConfigDict, key: str) -> bool:
    name, _, rest = key.partition(".")
    if name not in config:
        return False
    return not rest or (isinstance(config[name], ConfigDict) and _has_key(config[name], rest))


def _is_option(key: str, network: str) -> bool:
    section, _, name = key.partition(".")
    return section == "model" and name in models.options(network)


def _config(label: str, value: str) -> ConfigDict:
    """Returns the config for the value of `--config`; base.py for a placeholder or a block."""
    path, _, variant = value.partition(":")
    if path in config_files.names():
        path = f"configs/{path}.py"
    if _is_placeholder(Path(path).stem) or path in FILES:
        path, variant = "configs/base.py", ""
    _check_file(label, path)
    module = importlib.import_module(Path(path).with_suffix("").as_posix().replace("/", "."))
    try:
        config = module.get_config(variant) if variant else module.get_config()
    except errors.UserError as error:
        raise AssertionError(f"{label}: {error}") from error
    assert isinstance(config, ConfigDict)
    return config


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


# Config keys


def config_key_table() -> str:
    """Returns the Markdown table of all config keys and of the options of a network."""
    rows = [(key.path, str(key.default), key.comment, key.material) for key in plan.keys().values()]
    place = max(i for i, (path, *_) in enumerate(rows) if path.startswith("model.")) + 1
    options = "an option of the network; see [ablations](networks.md#run-an-ablation)"
    rows.insert(place, ("model.OPTION", "", options, True))
    lines = [
        f"| `{path}` | {f'`{default}`' if default else ''} | {comment} | {'' if fixed else 'yes'} |"
        for path, default, comment, fixed in rows
    ]
    return "\n".join(["| key | default | meaning | may change |", "|---|---|---|---|", *lines])


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory of a test. Modules in it can be imported, as those beside a script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "").is_relative_to(tmp_path):
            del sys.modules[name]


def test_a_block_has_a_known_language() -> None:
    known = ("python", *COMMAND_LANGUAGES, *OTHER_LANGUAGES)
    for block in BLOCKS:
        assert block.language in known, f"{block.label}: {block.language!r} is not among {known}"


def is_slow(block: Block) -> bool:
    """Returns True if the block, or one that it continues, has a line of `SLOW_LINES`."""
    return any(set(part.lines) & set(SLOW_LINES) for part in _chain(block, PYTHON_BLOCKS))


# In one process, so that operations of equal shapes are compiled once.
@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=[pytest.mark.slow] * is_slow(block)) for block in LAST_BLOCKS],
    ids=lambda block: block.label,
)
def test_a_python_block_runs(block: Block, directory: Path) -> None:
    for file in _files_above(block, PYTHON_BLOCKS):
        (directory / file.file).write_text("\n".join(file.lines))
    source = source_of(block, PYTHON_BLOCKS)
    if any(part.has_marker(DOWNLOADS) for part in _chain(block, PYTHON_BLOCKS)):
        check_names(source, block.page)
    else:
        execute(source, block.page)


def test_the_names_and_calls_of_slow_blocks_exist() -> None:
    slow = [block for block in LAST_BLOCKS if is_slow(block)]
    for block in slow:
        check_names(source_of(block, PYTHON_BLOCKS), block.page)
    lines = [line for block in PYTHON_BLOCKS for line in block.lines]
    assert [line for line in SLOW_LINES if lines.count(line) != 1] == []


def test_the_commands_of_a_block_exist() -> None:
    for block in COMMAND_BLOCKS:
        check_commands(block)


def test_the_links_of_a_page_lead_somewhere() -> None:
    for page in PAGES:
        check_links(page)


def test_the_table_of_config_keys_is_that_of_the_code() -> None:
    page, table = ROOT / "docs" / "training.md", config_key_table()
    assert f"\n\n{table}\n" in page.read_text(encoding="utf-8"), (
        f"docs/training.md: replace the table of config keys by\n{table}"
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
