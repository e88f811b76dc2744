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

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnn_jax import plan
from tests.doc_commands import check_commands
from tests.doc_pages import (
    BLOCKS,
    COMMAND_LANGUAGES,
    DOWNLOADS,
    PAGES,
    PYTHON_BLOCKS,
    ROOT,
    Block,
    chain,
    check_links,
    check_names,
    execute,
    files_above,
    last_blocks,
    source_of,
)

OTHER_LANGUAGES = ("json", "text", "toml", "yaml")
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
LAST_BLOCKS = last_blocks(PYTHON_BLOCKS)


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
    return any(set(part.lines) & set(SLOW_LINES) for part in chain(block, PYTHON_BLOCKS))


# In one process, so that operations of equal shapes are compiled once.
@pytest.mark.xdist_group("docs")
@pytest.mark.parametrize(
    "block",
    [pytest.param(block, marks=[pytest.mark.slow] * is_slow(block)) for block in LAST_BLOCKS],
    ids=lambda block: block.label,
)
def test_a_python_block_runs(block: Block, directory: Path) -> None:
    for file in files_above(block, PYTHON_BLOCKS):
        (directory / file.file).write_text("\n".join(file.lines))
    source = source_of(block, PYTHON_BLOCKS)
    if any(part.has_marker(DOWNLOADS) for part in chain(block, PYTHON_BLOCKS)):
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
