"""The scripts and the notebook of experiments/examples, run as docs/research.md says."""

import contextlib
import io
import re
import runpy
from pathlib import Path

import nbclient
import nbformat
import pytest

from cnn_jax.models import registry
from tests.doc_pages import check_names

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "experiments" / "examples"
# The figure that each script prints last: a pattern, and the least value of each group.
RECIPES: dict[str, tuple[str, tuple[float, ...]]] = {
    "own_arrays": (r"test accuracy ([\d.]+)", (0.85,)),
    "own_network": (r"test accuracy ([\d.]+)", (0.7,)),
    "own_loss": (r"accuracy ([\d.]+), Brier score ([\d.]+)", (0.75, 0.0)),
    "own_optimizer": (r"plateau: validation accuracy ([\d.]+)", (0.8,)),
    "sweep": (r"0\.10 +100 +[\d.]+ +([\d.]+)", (0.8,)),
    "fine_tune": (r"head: test accuracy ([\d.]+)\nall: test accuracy ([\d.]+)", (0.9, 0.0)),
    "linear_probe": (r"embedding: 1280 features, test accuracy ([\d.]+)", (0.95,)),
    "adversarial": (r"before: daisy ([\d.]+); after: (?!daisy)[a-z ]+ ([\d.]+)", (0.3, 0.0)),
    "plain_loop": (r"loss ([\d.]+)", (0.0,)),
    "nnx_equinox": (r"Equinox: logits \(8, 4\), norm of the gradient ([\d.]+)", (0.1,)),
}
# The others take many seconds; the fast tests check their names and calls.
FAST = ("own_arrays",)
MAX_LINES, MAX_LINES_OF_FINE_TUNING = 40, 25


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in RECIPES],
)
def test_a_recipe_runs_as_written(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in this process, which has imported its packages."""
    monkeypatch.setattr(registry, "_REGISTERED", {})
    monkeypatch.chdir(ROOT)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        runpy.run_module(f"experiments.examples.{name}", run_name="__main__")
    pattern, least = RECIPES[name]
    found = re.search(pattern, output.getvalue())
    assert found is not None, output.getvalue()
    for value, bound in zip(map(float, found.groups()), least, strict=True):
        assert value >= bound, output.getvalue()


def test_the_names_and_calls_of_all_recipes_exist() -> None:
    for name in RECIPES:
        path = EXAMPLES / f"{name}.py"
        check_names(path.read_text(encoding="utf-8"), path)


def test_the_recipes_are_short_and_on_the_page() -> None:
    page = (ROOT / "docs" / "research.md").read_text()
    scripts = {path.stem: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert set(scripts) == {*RECIPES, "pictures"}
    for name, text in scripts.items():
        limit = MAX_LINES_OF_FINE_TUNING if name == "fine_tune" else MAX_LINES
        assert len(text.splitlines()) <= limit, name
        assert name == "pictures" or f"(../experiments/examples/{name}.py)" in page, name


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
