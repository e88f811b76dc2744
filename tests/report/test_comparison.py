"""The page that compares runs, of small logs whose figures are known."""

import dataclasses
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import errors
from cnn_jax.report import __main__, comparison, figures
from cnn_jax.report.page import ABSENT
from cnn_jax.runs import workdir
from tests.report.browser import DESKTOP, PHONE, Browser
from tests.report.work_directories import (
    DIGITS,
    START,
    Page,
    make,
    make_phases,
    rows,
    write_log,
    write_outcomes,
)

OLD = Path(__file__).parents[1] / "stored_runs" / "e1b8c15"


def compared(*directories: Path) -> Page:
    return Page(comparison.make(directories))


def test_final_figures_are_those_of_the_logs(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    b = make(tmp_path / "b", {"model.name": "mlp"}, rows(best=0.8))
    table = compared(a, b).columns("final-figures")
    assert table["run"] == ["a", "b"]
    assert table["state"] == ["complete", "complete"]
    assert table["network"] == ["lenet", "mlp"]
    assert table["steps"] == ["20", "20"]
    assert table["epochs"] == ["2", "2"]
    # 10 steps of 128 images at 64 and at 128 images per second, and 5 seconds of compilation
    assert table["training time"] == ["35.0 s", "35.0 s"]
    assert table["best validation top1"] == ["0.9 at step 10", "0.85 at step 20"]
    assert table["validation top1"] == ["0.85", "0.85"]
    assert table["test top1"] == ["0.8125", "0.8125"]
    assert table["test loss"] == ["1.2", "1.2"]
    assert "learning_rate" not in " ".join(table)


def test_a_monitored_loss_is_best_where_it_is_low(tmp_path: Path) -> None:
    settings = {"eval.monitor": "loss", "eval.monitor_mode": "min"}
    a, b = make(tmp_path / "a", settings), make(tmp_path / "b")
    table = compared(a, b).columns("final-figures")
    assert table["best validation loss"] == ["1.25 at step 20", ABSENT]
    assert table["best validation top1"] == [ABSENT, "0.9 at step 10"]


def test_averaged_weights_have_the_figures_that_rank_checkpoints(tmp_path: Path) -> None:
    log = [
        {**row, "average/top1": row["top1"] + 0.05, "average/loss": row["loss"] / 2}
        if row["split"] in ("validation", "test")
        else row
        for row in rows()
    ]
    averaged = make(tmp_path / "average", {"ema.decay": 0.9, "eval.weights": "average"}, log)
    raw = make(tmp_path / "raw", {"ema.decay": 0.9}, log)
    page = compared(averaged, raw)
    table = page.columns("final-figures")
    assert table["test top1"] == ["0.8625", "0.8125"]
    assert table["test loss"] == ["0.6", "1.2"]
    assert table["best validation top1"][0] == "0.95 at step 10"
    assert "Figures of average are those of averaged weights" in page.texts["final-figures"]
    assert figures.read(averaged).curve("validation", "loss") == ([10.0, 20.0], [0.75, 0.625])


def test_phases_are_one_run_with_the_figures_of_the_last(tmp_path: Path) -> None:
    whole = make_phases(tmp_path / "phases", [rows(), rows(best=0.7)])
    stopped = make_phases(tmp_path / "stopped", [rows(), rows(final=False)], rate=0.02)
    page = compared(whole, stopped)
    table = page.columns("final-figures")
    assert table["state"] == ["complete", "unfinished"]
    assert table["steps"] == ["40", "40"]
    assert table["best validation top1"] == ["0.85 at step 40", "0.9 at step 30"]
    assert table["test top1"] == ["0.8125", ABSENT]  # That of the first phase is not the run's.
    # The second phase has batches of 64 images: 35 and 20 seconds.
    assert table["training time"] == ["55.0 s", "55.0 s"]
    assert "that of the last phase" in page.texts["final-figures"]
    config = page.columns("config")
    assert config["key"] == ["phases[2].optim.learning_rate"]
    assert config["phases"] + config["stopped"] == ["0.1", "0.02"]
    steps, losses = figures.read(whole).curve("train", "loss")
    assert (steps, losses) == ([10.0, 20.0, 30.0, 40.0], [2.0, 1.0, 2.0, 1.0])


def test_only_keys_that_differ_are_shown_with_their_default(tmp_path: Path) -> None:
    a = make(tmp_path / "a", {"optim.learning_rate": 0.3, "train.epochs": 2.0})
    b = make(tmp_path / "b", {"train.epochs": 2.0, "model.dropout_rate": 0.5, "log.every_steps": 7})
    text = comparison.make([a, b])
    table = Page(text).columns("config")
    keys = ["log.every_steps", "model.dropout_rate", "optim.learning_rate"]
    assert sorted(table["key"]) == keys
    places = {key: place for place, key in enumerate(table["key"])}
    rate, every = places["optim.learning_rate"], places["log.every_steps"]
    option = places["model.dropout_rate"]
    assert [table[name][rate] for name in ("default", "a", "b")] == ["0.1", "0.3", "0.1"]
    assert [table[name][every] for name in ("default", "a", "b")] == ["50", "50", "7"]
    assert [table[name][option] for name in ("default", "a", "b")] == [ABSENT, ABSENT, "0.5"]
    # Others than the default are bold; a key that does not change the parameters is grey.
    assert "<b>0.3</b>" in text
    assert "<b>0.1</b>" not in text
    assert re.search(r"color:var\(--muted\)\">log.every_steps", text)


def test_equal_configs_have_no_table(tmp_path: Path) -> None:
    page = compared(make(tmp_path / "a"), make(tmp_path / "b"))
    assert page.tables["config"] == []
    assert "The configs are equal." in page.texts["config"]
    assert "warning" not in page.texts["final-figures"]


def test_curves_of_all_runs_are_overlaid_and_broken_at_nan(tmp_path: Path) -> None:
    log = rows()
    log[2]["loss"] = None  # a loss that was not finite
    a, b = make(tmp_path / "a", log=log), make(tmp_path / "b")
    text = comparison.make([a, b])
    charts = [ET.fromstring(svg) for svg in re.findall(r"<svg class=\"chart\".*?</svg>", text)]
    titles = [chart[0].text for chart in charts]
    assert titles == ["Training loss", "Validation loss", "Validation top1", "Learning rate"]
    space = "{http://www.w3.org/2000/svg}"
    counts = [
        len(charts[0].findall(f".//{space}g[@data-series='{i}']/{space}circle")) for i in (0, 1)
    ]
    assert counts == [1, 2]
    assert "Over epochs" not in text


def test_epochs_of_other_lengths_have_charts_of_their_own(tmp_path: Path) -> None:
    log = [{**row, "step": 2 * row["step"]} for row in rows()]
    text = comparison.make([make(tmp_path / "a"), make(tmp_path / "b", log=log)])
    assert text.index("Over steps") < text.index("Over epochs")
    assert len(re.findall('<svg class="chart"', text)) == 8


def test_other_data_sets_and_splits_are_warned_of(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    hashes = {**DIGITS.hashes, "test": "d" * 64}
    sizes = {**DIGITS.sizes, "validation": 100}
    other = dataclasses.replace(DIGITS, hashes=hashes, sizes=sizes)
    b = make(tmp_path / "b", description=other)
    warnings = compared(a, b).texts["final-figures"]
    assert "in the split 'test': a: 360 examples (cccccccc); b: 360 examples (dddddddd)" in warnings
    assert "in the split 'validation': a: 140 examples (bbbbbbbb); b: 100 examples" in warnings
    assert "'train'" not in warnings
    named = dataclasses.replace(DIGITS, class_names=("zero", *DIGITS.class_names[1:]), hashes={})
    warnings = compared(a, make(tmp_path / "c", description=named)).texts["final-figures"]
    assert "different classes: a: 10 classes, 0, 1, 2 and 7 more; c: 10 classes, zero" in warnings
    assert "The data set of c is not recorded by its hash" in warnings


def test_damaged_and_unfinished_runs_are_listed_and_the_rest_is_compared(tmp_path: Path) -> None:
    good, cut = make(tmp_path / "good"), make(tmp_path / "cut", log=rows(final=False))
    with (cut / workdir.METRICS).open("a") as log:
        log.write('{"step": 20, "epo\nno json\n{"step": 30, "epoch"')
    lost = make(tmp_path / "lost")
    (lost / workdir.CONFIG).write_text("{", encoding="utf-8")
    (lost / workdir.DATASET).write_bytes(b"\xff")
    (lost / workdir.ENVIRONMENT).write_text("[]", encoding="utf-8")
    empty = tmp_path / "empty"
    empty.mkdir()
    page = compared(good, cut, lost, empty)
    table = page.columns("final-figures")
    assert table["run"] == ["good", "cut", "lost", "empty"]
    assert table["state"] == ["complete", "unfinished", "complete", "no log"]
    assert table["test top1"] == ["0.8125", ABSENT, "0.8125", ABSENT]
    assert table["network"] == ["lenet", "lenet", ABSENT, ABSENT]
    missing = page.texts["missing-parts"]
    for sentence in (
        "cut: metrics.jsonl: damaged lines are left out: 2",
        "cut: metrics.jsonl: the last line is incomplete",
        "cut: end of training: the log ends at step 20",
        f"lost: config.json: {lost / 'config.json'} is damaged",
        f"lost: dataset.json: {lost / 'dataset.json'} cannot be read",
        "environment.json is damaged",
        f"empty: all files: {empty} is not a work directory",
        "good: ",
    ):
        assert sentence in missing
    assert missing.count("there is no checkpoint") == 3


def test_runs_of_an_older_version_are_compared(tmp_path: Path) -> None:
    out = comparison.write([OLD / "resnet", OLD / "mlp"], tmp_path / "page.html")
    page = Page(out.read_text(encoding="utf-8"))
    table = page.columns("final-figures")
    assert table["parameters"] == ["4,116", "1,634"]  # README.md of the stored runs
    assert table["steps"] == ["90", "24"]
    assert "mlp: end of training: the log ends at step 24" in page.texts["missing-parts"]
    assert "model.stage_sizes" in page.columns("config")["key"]


def test_a_damaged_checkpoint_leaves_the_number_of_parameters_unknown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(OLD / "mlp", run)
    (run / "checkpoints" / "30" / "state" / "_METADATA").write_text("{", encoding="utf-8")
    page = compared(run, OLD / "mlp")
    assert page.columns("final-figures")["parameters"] == [ABSENT, "1,634"]
    assert "run: parameters: checkpoint 30 in" in page.texts["missing-parts"]


def test_damaged_logs_and_environments_do_not_stop_the_comparison(tmp_path: Path) -> None:
    log = rows()
    log[0] |= {"images_per_second": 1e-310, "phase": "first", "epoch": -1.0, "loss": 1e308}
    start: dict[str, object] = {
        "time": [],
        "versions": {"jax": {"nested": 1}},
        "hardware": "none",
        "commit": None,
    }
    page = compared(make(tmp_path / "a", log=log, start=start), make(tmp_path / "b"))
    assert page.columns("final-figures")["training time"] == [ABSENT, "35.0 s"]
    table = page.columns("versions")
    assert table["a"][table["entry"].index("hardware")] == "none"


def test_names_of_directories_are_told_apart() -> None:
    paths = [Path(text) for text in ("/r/a/lenet", "/r/b/lenet", "/r/b/vgg", "/r/b/vgg", "/lenet")]
    assert comparison.names(paths) == ["a/lenet", "b/lenet", "vgg", "vgg (2)", "/lenet"]


def test_names_from_files_are_escaped(tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)>&\x1b"
    a, b = make(tmp_path / name), make(tmp_path / "b", {"model.note": "<script>1</script>"})
    text = comparison.make([a, b])
    page = Page(text)
    assert "img" not in page.tags
    assert page.columns("final-figures")["run"][0] == name.replace("\x1b", "\\x1b")
    assert "'<script>1</script>'" in page.columns("config")["b"]
    assert "\x1b" not in text


def test_versions_and_hardware_that_differ_are_shown(tmp_path: Path) -> None:
    newer = {**START, "versions": {"cnn_jax": "0.3.0", "jax": "0.10.2"}}
    page = compared(make(tmp_path / "a"), make(tmp_path / "b", start=newer))
    table = page.columns("versions")
    assert table["entry"] == ["starts", "versions.cnn_jax"]
    assert table["b"] == ["1", "0.3.0"]


def test_paired_test_matches_examples_by_name(tmp_path: Path) -> None:
    # The counts and the probability are those of the example of `intervals.mcnemar`: 2 / 2^6.
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    write_outcomes(a, [True] * 9 + [False])
    write_outcomes(b, [True] * 3 + [False] * 7, order=range(9, -1, -1))
    page = compared(a, b)
    table = page.columns("paired-test")
    assert table["A"] + table["B"] == ["a", "b"]
    assert table["top1 of A"] + table["top1 of B"] == ["0.9", "0.3"]
    assert table["A - B"] == ["+0.6000"]
    assert table["only A right"] + table["only B right"] == ["6", "0"]
    assert table["p"] == ["0.0312"]
    assert "python -m cnn_jax.evaluate" not in page.texts["paired-test"]
    assert "digits, test, 10 examples" in page.texts["paired-test"]
    assert "Checkpoints: a step 1,500, b step 1,500." in page.texts["paired-test"]


def test_without_outcomes_the_commands_that_store_them_are_shown(tmp_path: Path) -> None:
    a, b, c = (make(tmp_path / name) for name in ("a", "b b", "c"))
    text = compared(a, b).texts["paired-test"]
    assert f"python -m cnn_jax.evaluate --workdir={a} --split=test --calibrate" in text
    assert f"'--workdir={b}' --split=test" in text
    write_outcomes(a, [True, False])
    write_outcomes(c, [True, True], split="validation")  # Nothing can be paired with it.
    text = compared(a, b, c).texts["paired-test"]
    assert "A paired test needs" in text
    write_outcomes(c, [True, True])
    page = compared(a, b, c)
    assert len(page.tables["paired-test"]) == 1
    assert str(b) in page.texts["paired-test"]
    assert f"--workdir={a}" not in page.texts["paired-test"]


def test_damaged_outcomes_and_other_labels_are_notes(tmp_path: Path) -> None:
    a, b, c = (make(tmp_path / name) for name in "abc")
    write_outcomes(a, [True] * 4)
    write_outcomes(b, [True] * 4).with_suffix(".npz").write_bytes(b"damaged")
    path = write_outcomes(c, [True] * 4)
    with np.load(path.with_suffix(".npz")) as arrays:
        columns = {**arrays, "labels": arrays["labels"][::-1]}
    np.savez(path.with_suffix(".npz"), **columns)
    page = compared(a, b, c)
    assert page.tables["paired-test"] == []
    assert "cannot be read" in page.texts["paired-test"]
    assert "a and c: " in page.texts["paired-test"]
    assert "has another label for 'test-0'" in page.texts["paired-test"]


def test_all_pairs_of_few_runs_are_tested_and_many_with_the_first(tmp_path: Path) -> None:
    runs = [make(tmp_path / str(number)) for number in range(7)]
    for run in runs:
        write_outcomes(run, [True, False])
    table = compared(*runs[:4]).columns("paired-test")
    assert len(table["A"]) == 6
    table = compared(*runs).columns("paired-test")
    assert table["A"] == ["0"] * 6
    assert table["B"] == list("123456")


def test_the_command_compares_several_work_directories(
    exit_status: Callable[..., int | str | None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    a, b = make(tmp_path / "a"), make(tmp_path / "b")
    both = f"--workdir={a},{b}"
    for _ in range(2):  # An earlier page is replaced.
        assert exit_status(__main__.main, both) == 0
        assert capsys.readouterr().out == f"{a / 'comparison.html'}\n"
    out = tmp_path / "page.html"
    assert exit_status(__main__.main, both, f"--out={out}") == 0
    assert out.read_text() == (a / "comparison.html").read_text()
    assert exit_status(__main__.main, both, f"--out={out}") == 1
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert exit_status(__main__.main, both, "--split=test") == 1
    assert "--split is for the report of one run" in capsys.readouterr().err


def test_mistakes_are_named(tmp_path: Path) -> None:
    a = make(tmp_path / "a")
    with pytest.raises(errors.UserError, match="two work directories or more, got 1"):
        comparison.make([a])
    with pytest.raises(errors.UserError, match="there is no directory"):
        comparison.make([a, tmp_path / "b"])
    for name in "cd":
        (tmp_path / name).mkdir()
    with pytest.raises(
        errors.UserError, match=r"no run can be compared: .* is not a work directory"
    ):
        comparison.make([tmp_path / "c", tmp_path / "d"])
    with pytest.raises(errors.UserError, match="the folder of --out"):
        comparison.write([a, a], tmp_path / "missing" / "page.html")


@pytest.mark.xdist_group("browser")
def test_the_page_in_chromium(browser: Browser, tmp_path: Path) -> None:
    long = "a_directory_with_quite_a_long_name_that_has_no_space_" * 2
    a = make(tmp_path / "a", {"optim.learning_rate": 0.3}, rows(first=3.0))
    b = make(tmp_path / long, {"seed": 7}, rows(best=0.95))
    c = make(tmp_path / "c", log=rows(final=False))
    log = [{**row, "step": 3 * row["step"]} for row in rows()]
    write_log(c, log[:-2])
    write_outcomes(a, [True] * 9 + [False])
    write_outcomes(b, [True] * 3 + [False] * 7)
    page = comparison.write([a, b, c], tmp_path / "page.html")
    backgrounds = set()
    for width in (PHONE, DESKTOP):
        for dark in (False, True):
            browser.open(page, width=width, dark=dark)
            assert (browser.messages, browser.requests, browser.overflow()) == ([], [], [])
            backgrounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            # A letter of a chart is at least nine pixels high, and each curve has a colour.
            scale = "document.querySelector('svg.chart').getScreenCTM().a"
            assert 12 * browser.evaluate(scale) >= 9
            stroke = "getComputedStyle(document.querySelector('polyline')).stroke"
            assert browser.evaluate(stroke).startswith("rgb")
    assert len(backgrounds) == 2
    first = "document.querySelector('#final-figures tbody').rows[0].cells[0].textContent"
    assert browser.evaluate(first) == "a"
    column = "[...document.querySelectorAll('#final-figures th')].findIndex(h => "
    place = browser.evaluate(f"{column}h.textContent === 'best validation top1')")
    browser.click(f"#final-figures th:nth-child({place + 1}) button")
    assert browser.evaluate(first) == long
