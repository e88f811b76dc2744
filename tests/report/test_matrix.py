"""Confusion matrix of a page: counts, the cap on classes, order and zoom in Chromium."""

from pathlib import Path

import numpy as np
import pytest
from sklearn import metrics as reference

from cnn_jax.report import matrix, page
from tests.report.browser import PHONE, Browser
from tests.report.work_directories import Page

pytestmark = pytest.mark.xdist_group("browser")


def examples(classes: int, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels and predictions; later classes have more errors."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, classes, count)
    is_wrong = generator.random(count) < 0.6 * labels / classes
    return labels, np.where(is_wrong, generator.integers(0, classes, count), labels)


def names_of(classes: int) -> list[str]:
    return [f"class {number}" for number in range(classes)]


def section(classes: int, count: int = 4000) -> page.Section:
    return matrix.section(matrix.pairs(*examples(classes, count), classes), names_of(classes))


def test_counts_are_those_of_scikit_learn() -> None:
    labels, predicted = examples(5)
    expected = reference.confusion_matrix(labels, predicted)
    found = matrix.pairs(labels, predicted, 5)
    dense = np.zeros((5, 5), int)
    dense[found[:, 0], found[:, 1]] = found[:, 2]
    np.testing.assert_array_equal(dense, expected)
    np.testing.assert_array_equal(matrix.pairs_of_matrix(expected.tolist()), found)
    html = page.page("t", [matrix.section(found, names_of(5))])
    cells = Page(html).tables["confusion-matrix"][0][1:]
    shown = [[int(cell or 0) for cell in line[1:]] for line in cells]
    assert shown == expected.tolist()


def test_of_a_thousand_classes_those_with_the_most_errors_are_shown() -> None:
    found = section(1000, 20_000)
    assert len(found.body) < 500_000
    assert f"The matrix has the {matrix.MOST} classes with the most errors of 1,000." in found.body
    tables = Page(page.page("t", [found])).tables["confusion-matrix"]
    assert len(tables[0]) == matrix.MOST + 1
    labels, predicted = examples(1000, 20_000)
    wrong = labels != predicted
    errors = np.bincount(labels[wrong], minlength=1000) + np.bincount(
        predicted[wrong], minlength=1000
    )
    shown = [int(line[0].removeprefix("class ")) for line in tables[0][1:]]
    hidden = np.delete(errors, shown)
    assert errors[shown].min() >= hidden.max()


def test_the_matrix_sorts_zooms_and_tells_its_numbers(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(page.page("t", [section(12)], scripts=[matrix.SCRIPT]), encoding="utf-8")
    browser.open(path, width=PHONE)
    rows = "[...document.querySelectorAll('.confusion tbody tr')].map(r => r.cells[0].textContent)"
    heads = "[...document.querySelectorAll('.confusion thead th')].slice(1).map(h => h.textContent)"
    assert browser.evaluate(rows) == browser.evaluate(heads) == names_of(12)
    diagonal = (
        "[...document.querySelectorAll('.confusion tbody tr')].map((r, i) => "
        "r.cells[i + 1].className)"
    )
    assert browser.evaluate(diagonal) == ["right"] * 12
    choose = "(() => {const s = document.querySelector('.confusion select'); s.value = '%s'; "
    choose += "s.dispatchEvent(new Event('change'))})()"
    browser.evaluate(choose % "errors")
    order = browser.evaluate(rows)
    labels, predicted = examples(12)
    wrong = labels != predicted
    errors = np.bincount(labels[wrong], minlength=12) + np.bincount(predicted[wrong], minlength=12)
    assert order == [f"class {index}" for index in np.argsort(-errors, kind="stable")]
    assert browser.evaluate(heads) == order
    assert browser.evaluate(diagonal) == ["right"] * 12
    browser.evaluate(choose % "name")
    assert browser.evaluate(rows) == sorted(names_of(12), key=lambda name: int(name[6:]))
    width = "document.querySelector('.confusion td').getBoundingClientRect().width"
    for size in (8, 40):
        zoom = "(() => {const z = document.querySelector('.confusion input'); z.value = %d; "
        browser.evaluate(zoom % size + "z.dispatchEvent(new Event('input'))})()")
        assert browser.evaluate(width) == pytest.approx(size, abs=1)
    browser.click(".confusion tbody td.right")
    count = int(((labels == 0) & (predicted == 0)).sum())
    total = int((labels == 0).sum())
    text = browser.evaluate("document.querySelector('.confusion output').textContent")
    assert text.startswith(f"class 0, predicted as class 0: {count} of {total} (")
    assert (browser.messages, browser.overflow()) == ([], [])
