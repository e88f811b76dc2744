"""The report of a run: figures, pictures, reuse of results, damaged runs, hostile text."""

import json
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import errors, report
from cnn_jax.evaluators import example_rows, label_errors, thorough
from cnn_jax.evaluators.example_rows import ExampleRows
from cnn_jax.evaluators.networks import Networks
from cnn_jax.evaluators.request import Request
from cnn_jax.report import __main__, measured, writing
from cnn_jax.runs import workdir
from tests import figures
from tests.report import work_directories
from tests.report.browser import DESKTOP, PHONE, Browser
from tests.report.work_directories import Page

STORED = Path(__file__).parents[1] / "stored_runs" / "e1b8c15"
HOSTILE = '</script><img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'

pytestmark = [pytest.mark.xdist_group("browser"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw nothing with matplotlib."""
    with figures.stand_in():
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work directory of commit e1b8c15 with its report."""
    directory = shutil.copytree(STORED / "resnet", tmp_path_factory.mktemp("report") / "resnet")
    report.write(directory, report.Wanted(human_error=0.001))
    return directory


def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def content_of(run: Path) -> dict[str, Any]:
    (path,) = run.glob("evaluation-test-calibrated-*.json")
    return json.loads(path.read_text())


class _Values(HTMLParser):
    """The exact numbers of a page: of the figures by key, and of the cells by their first cell."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.figures: dict[str, float] = {}
        self.cells: dict[str, dict[str, list[float]]] = {}
        self._section, self._row, self._is_first = "", "", False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        value = given.get("data-value")
        if tag == "section":
            self._section = str(given["id"])
        elif tag == "tr":
            self._row, self._is_first = "", True
        elif "data-key" in given and value:
            self.figures[str(given["data-key"])] = float(value)
        if tag == "td" and value:
            rows = self.cells.setdefault(self._section, {})
            rows.setdefault(self._row, []).append(float(value))

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._is_first = False

    def handle_data(self, data: str) -> None:
        if self._is_first:
            self._row += data


def test_the_figures_of_the_page_are_those_of_the_json_files(run: Path) -> None:
    stored = content_of(run)
    written = json.loads((run / "report.json").read_text())
    values = _Values((run / "report.html").read_text())
    shown = {key: value for key, value in values.figures.items() if key != "temperature"}
    assert shown == {key: stored[key] for key in shown}
    assert shown == {key: written[key] for key in shown}
    assert {"top1", "top5", "nll", "brier", "ece", "macro_f1", "examples"} <= shown.keys()
    assert values.figures["temperature"] == stored["calibration"]["temperature"]
    for name, entry in stored["per_class"].items():
        expected = [entry[key] for key in ("precision", "recall", "f1", "examples")]
        assert values.cells["classes"][name] == expected
    rows = values.cells["calibration"]
    for name, key in (("calibration error (ECE)", "ece"), ("Brier score", "brier")):
        assert rows[name] == [stored[key], stored["calibration"][f"calibrated_{key}"]]
    found = written["errors"]
    assert values.cells["gaps"]["human-level"] == [0.001]
    for name in ("training", "validation", "test"):
        assert values.cells["gaps"][name][0] == found[name]["error"]
    assert found["test"]["error"] == 1 - stored["top1"]
    gaps = {gap["name"]: gap["value"] for gap in written["gaps"]}
    assert gaps["variance"] == found["validation"]["error"] - found["training"]["error"]
    assert gaps["avoidable bias"] == found["training"]["error"] - 0.001
    matrix = Page((run / "report.html").read_text()).tables["confusion-matrix"][0][1:]
    assert [[int(cell or 0) for cell in line[1:]] for line in matrix] == stored["confusion"]


def test_errors_of_training_and_validation_are_those_of_evaluations(run: Path) -> None:
    found = json.loads((run / "report.json").read_text())["errors"]
    for name, split in (("training", "train"), ("validation", "validation")):
        request = Request(split=split, out=run / f"{split}.json")
        content = thorough.run(Networks(runs=(run,)), request).content
        assert found[name]["error"] == pytest.approx(1 - content["top1"], abs=1e-9)


def test_suspects_are_those_of_the_outcomes(run: Path) -> None:
    written = json.loads((run / "report.json").read_text())
    (path,) = run.glob("evaluation-test-calibrated-*.json")
    rows = example_rows.read(path)
    wrong = sorted(np.flatnonzero(~rows.right), key=lambda row: -rows.confidence[row])
    first = written["confident_errors"]["first"]
    assert [one["name"] for one in first] == [str(rows.names[row]) for row in wrong[: len(first)]]
    candidates = label_errors.of_rows(rows)
    names = [one["name"] for one in written["label_errors"]["first"]]
    assert names == rows.names[candidates.indices[: len(names)]].tolist()
    assert written["label_errors"]["candidates"] == len(candidates.indices)


def test_the_page_has_pictures_with_grad_cam_curves_and_config(run: Path) -> None:
    html = (run / "report.html").read_text()
    page = Page(html)
    assert html.count('alt="Grad-CAM"') >= 2
    assert "Grad-CAM of the predicted class at stage3" in page.texts["most-confident-errors"]
    assert html.count("<svg") >= 6
    config = page.columns("config")
    values = dict(zip(config["key"], config["value"], strict=True))
    assert values["model.stage_sizes"] == "(1, 1, 1)"
    assert "seed" in values
    assert "train.batch_size" in values
    assert "optim.nesterov" not in values  # the default
    assert "config.json" in page.texts["reproduction"]
    assert "environment.json" in page.texts["figures"]  # The old version wrote none.


def test_a_network_without_stages_and_a_run_without_validation(tmp_path: Path) -> None:
    directory = shutil.copytree(STORED / "mlp", tmp_path / "mlp")
    page = Page(report.write(directory).html)
    assert (
        "There is no Grad-CAM: the network records no endpoint"
        in page.texts["most-confident-errors"]
    )
    assert "calibration" not in page.texts
    gaps = page.columns("gaps", 1)
    assert gaps["verdict"] == ["clear", "an error is unknown", "an error is unknown"]
    assert page.columns("gaps")["error"] == ["training", "test"]


def test_a_second_report_computes_nothing_again(run: Path, tmp_path: Path) -> None:
    directory = copy(run, tmp_path)
    before = json.loads((directory / "report.json").read_text())

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("evaluated again")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thorough, "run", refuse)
        patch.setattr(measured, "_of_sample", refuse)
        report.write(directory, report.Wanted(human_error=0.001))
    after = json.loads((directory / "report.json").read_text())
    same = before.keys() - {"time", "workdir"}
    assert {key: after[key] for key in same} == {key: before[key] for key in same}


def test_a_report_opens_in_chromium(run: Path, browser: Browser) -> None:
    assert (run / "report.html").stat().st_size < writing.MAX_BYTES
    for width in (PHONE, DESKTOP):
        for dark in (False, True):
            browser.open(run / "report.html", width=width, dark=dark)
            assert (browser.messages, browser.requests, browser.overflow()) == ([], [], [])
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert browser.evaluate(loaded)
    browser.click("#classes th:nth-child(4) button")
    f1 = "[...document.querySelectorAll('#classes tbody tr')].map(r => r.cells[3].dataset.value)"
    values = [float(value) for value in browser.evaluate(f1)]
    assert values == sorted(one["f1"] for one in content_of(run)["per_class"].values())[::-1]


def test_pictures_are_left_out_of_a_report_that_is_too_large(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (run / "report.html").stat().st_size
    monkeypatch.setattr(writing, "MAX_BYTES", size - 1000)
    made = report.write(copy(run, tmp_path), report.Wanted(human_error=0.001))
    assert len(made.html) < size - 1000
    assert "so that the page stays below 3 MB" in made.html


def remove(path: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        target = directory / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def cut(directory: Path) -> None:
    log = directory / workdir.METRICS
    log.write_text(log.read_text()[:-20])


def break_config(directory: Path) -> None:
    (directory / workdir.CONFIG).write_text("{")


def lose_data(directory: Path) -> None:
    content = json.loads((directory / workdir.CONFIG).read_text())
    content["data"] |= {"source": "npz", "directory": str(directory / "absent.npz")}
    (directory / workdir.CONFIG).write_text(json.dumps(content))


def damage_checkpoint(directory: Path) -> None:
    for file in (directory / workdir.CHECKPOINTS).rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")


def damage_evaluation(directory: Path) -> None:
    (path,) = directory.glob("evaluation-test-calibrated-*.json")
    content = json.loads(path.read_text())
    content["per_class"] = {"0": 3}
    path.write_text(json.dumps(content))


def without_network(*_: Any) -> None:
    raise errors.UserError("left out")


# What is done to a run with a report, the part that is missing, and a section that is there still.
@pytest.mark.parametrize(
    ("change", "part", "kept"),
    [
        (remove(workdir.METRICS), workdir.METRICS, "classes"),
        (remove(workdir.CHECKPOINTS), workdir.CHECKPOINTS, "calibration"),
        (remove(workdir.CONFIG), workdir.CONFIG, "curves"),
        (remove(workdir.DATASET), workdir.DATASET, "curves"),
        (cut, workdir.METRICS, "curves"),
        (break_config, workdir.CONFIG, "curves"),
        (lose_data, "pictures", "classes"),
        (damage_checkpoint, "checkpoint", "curves"),
        (damage_evaluation, "classes", "calibration"),
    ],
)
def test_a_damaged_run_says_what_is_missing_and_reports_the_rest(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    part: str,
    kept: str,
) -> None:
    directory = copy(run, tmp_path)
    change(directory)
    if part != "pictures":  # to save time
        monkeypatch.setattr(measured, "load", without_network)
    made = report.write(directory)
    assert part in [gap["part"] for gap in made.missing]
    page = Page(made.html)
    assert kept in page.texts
    assert part in page.texts["figures"]


def test_a_run_that_was_killed_has_its_curves_and_its_progress(tmp_path: Path) -> None:
    log = work_directories.rows(final=False)
    directory = work_directories.make(tmp_path / "run", {"train.epochs": 7.0}, log)
    made = report.write(directory)
    gaps = {gap["part"]: gap["reason"] for gap in made.missing}
    assert gaps["end of training"].startswith("the log ends at step 20, epoch 2 of 7 epochs")
    assert gaps["checkpoints"].startswith("there is no checkpoint")
    page = Page(made.html)
    assert "There is no evaluation on test." in page.texts["figures"]
    assert {"curves", "config", "reproduction"} <= page.texts.keys()
    assert "AMD EPYC" in page.texts["reproduction"]
    assert str(work_directories.START["command"]) in page.texts["reproduction"]


def test_the_logs_of_phases_are_joined(tmp_path: Path) -> None:
    both = [work_directories.rows(), work_directories.rows()]
    directory = work_directories.make_phases(tmp_path / "run", both)
    (directory / workdir.METRICS).unlink()  # as while the second phase runs
    page = Page(report.write(directory).html)
    assert "phase 1 to epoch 2, phase 2 to epoch 4." in page.texts["curves"]
    assert page.columns("curves")["train"][0] == "40"


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match="is not a work directory: it has none of"):
        report.write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_mistakes_are_named_before_anything_is_read(run: Path, tmp_path: Path) -> None:
    with pytest.raises(errors.UserError, match=r"--human_error must be .* got 2"):
        report.write(tmp_path, report.Wanted(human_error=2.0))
    with pytest.raises(errors.UserError, match="a report has one checkpoint"):
        report.write(tmp_path, report.Wanted(checkpoint="1,2"))
    out = tmp_path / "page.html"
    out.touch()
    with pytest.raises(errors.UserError, match="exists and is not overwritten"):
        report.write(run, out=out)


def test_the_command_writes_the_report_and_names_what_is_missing(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exit_status: Callable[..., int | str | None],
) -> None:
    monkeypatch.setattr(measured, "load", without_network)
    out = tmp_path / "page.html"
    assert exit_status(__main__.main, f"--workdir={run}", f"--out={out}") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{out}\n"
    assert "missing: environment.json: there is none" in captured.err
    assert out.with_suffix(".json").exists()


def hostile_run(tmp_path: Path) -> Path:
    """Returns a run whose class names, file names, config and environment are hostile."""
    names = (HOSTILE, "b'\"<!--", "\u202ec")
    start = {**work_directories.START, "command": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    log = [{**row, HOSTILE: 0.5} for row in work_directories.rows()]
    settings = {"data.name": HOSTILE, "data.directory": HOSTILE}
    directory = work_directories.make(tmp_path / "run", settings, log, None, start)
    labels, predicted = np.array([0, 1, 2, 0]), np.array([0, 2, 1, 1])
    rows = ExampleRows(
        names=np.array([f"{HOSTILE}{place}" for place in range(4)]),
        labels=labels,
        class_names=np.array(names),
        predicted=predicted,
        right=labels == predicted,
        confidence=np.array([0.9, 0.8, 0.7, 0.9]),
        nll=np.array([0.1, 2.0, 2.0, 3.0]),
    )
    entry = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "examples": 2, "predicted": 2}
    content = {
        "models": ["run"],
        "data": HOSTILE,
        "split": "test",
        "examples": 4,
        "top1": 0.25,
        "per_class": dict.fromkeys(names, entry),
    }
    path = directory / "evaluation-test-scores-00000000-best.json"
    workdir.save(directory, path.name, content)
    example_rows.write(path.with_suffix(".npz"), rows)
    return directory


def test_text_of_a_run_is_never_code(browser: Browser, tmp_path: Path) -> None:
    made = report.write(hostile_run(tmp_path))
    page = Page(made.html)
    assert made.html.count("<script>") == 2  # those of the page
    assert "img" not in page.tags
    assert {"confusion-matrix", "classes", "most-confident-errors", "config"} <= page.texts.keys()
    browser.open(made.path, width=PHONE)
    browser.click("#classes th button")
    browser.click(".confusion td")
    assert browser.evaluate("window.hacked") is None
    assert browser.evaluate("document.images.length") == 0
    assert (browser.messages, browser.requests, browser.overflow()) == ([], [], [])
