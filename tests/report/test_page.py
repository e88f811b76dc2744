"""Pages and tables: escaping, exact values, sorting and scripts in Chromium."""

from pathlib import Path

import numpy as np
import pytest

from cnn_jax.report import page
from cnn_jax.report.page import Cell, Section
from tests.report.browser import PHONE, Browser
from tests.report.work_directories import Page

HOSTILE = '</script><img src=x onerror="window.hacked=1"><b>&amp;'


def write(folder: Path, *sections: Section) -> Path:
    path = folder / "page.html"
    path.write_text(page.page(HOSTILE, sections, subtitle=HOSTILE), encoding="utf-8")
    return path


def test_text_is_escaped_everywhere() -> None:
    table = page.table([HOSTILE], [[HOSTILE]], caption=HOSTILE)
    html = page.page(HOSTILE, [Section(HOSTILE, table)], subtitle=HOSTILE)
    assert "<img" not in html
    assert Page(html).tables["script-img-src-x-onerror-window-hacked-1-b-amp"] == [
        [[HOSTILE], [HOSTILE]]
    ]


def test_sections_of_one_title_have_anchors_of_their_own() -> None:
    html = page.page(
        "t", [Section("A b", ""), Section("A b", ""), Section("!", ""), Section("", "")]
    )
    assert list(Page(html).texts) == ["a-b", "a-b-2", "section", "section-2"]
    assert html.count('href="#a-b-2"') == 1


def test_a_cell_has_the_exact_number() -> None:
    values = [
        0.1 + 0.2,
        np.float64(1 / 3),
        np.int64(60000),
        1e-300,
        float("nan"),
        None,
        float("inf"),
    ]
    table = page.table(["x"], [[value] for value in values])
    exact = [part.partition('"')[0] for part in table.split('data-value="')[1:]]
    assert exact == ["0.30000000000000004", repr(1 / 3), "60000", "1e-300", "", "", "Infinity"]
    assert ">60,000<" in table
    assert ">0.3333<" in table


def test_rows_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="each row must have 2 cells"):
        page.table(["a", "b"], [["1"]])


def test_a_script_that_would_end_early_is_refused() -> None:
    with pytest.raises(ValueError, match="must not contain"):
        page.page("t", [], scripts=["'</SCRIPT>'"])


pytestmark = pytest.mark.xdist_group("browser")

_ROWS: list[list[object]] = [["b10", 2.0, 1], ["b9", None, 2], ["a", 10.0, 3], [HOSTILE, -1.0, 4]]


def column(browser: Browser, place: int) -> list[str]:
    cells = f"[...document.querySelectorAll('tbody tr')].map(r => r.cells[{place}].textContent)"
    return browser.evaluate(cells)


def test_columns_sort_by_number_and_by_name(browser: Browser, tmp_path: Path) -> None:
    table = page.table(["name", "value", "n"], _ROWS)
    browser.open(write(tmp_path, Section("t", table)), width=PHONE)
    browser.click("th:nth-child(2) button")  # The first click on numbers: the largest ones first.
    assert column(browser, 2) == ["3", "1", "4", "2"]
    browser.click("th:nth-child(2) button")
    assert column(browser, 2) == ["4", "1", "3", "2"]  # An absent value stays last.
    browser.click("th:nth-child(1) button")
    assert column(browser, 0) == [HOSTILE, "a", "b9", "b10"]
    # By keyboard
    browser.evaluate("document.querySelector('th:nth-child(1) button').focus()")
    for kind in ("rawKeyDown", "char", "keyUp"):
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        browser.call("Input.dispatchKeyEvent", type=kind, **key)
    assert column(browser, 0) == ["b10", "b9", "a", HOSTILE]
    sorted_by = "document.querySelector('th').getAttribute('aria-sort')"
    assert browser.evaluate(sorted_by) == "descending"
    assert (browser.messages, browser.requests, browser.overflow()) == ([], [], [])


def test_the_policy_stops_scripts_that_are_not_the_pages(browser: Browser, tmp_path: Path) -> None:
    body = (
        "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
        "<img src='https://example.invalid/x.png'>"
    )
    browser.open(write(tmp_path, Section("t", body)))
    assert browser.evaluate("window.hacked") is None
    assert any("Content Security Policy" in message for message in browser.messages)


def test_a_wide_table_scrolls_in_its_own_box(browser: Browser, tmp_path: Path) -> None:
    headers = [f"header {number}" for number in range(30)]
    rows = [[Cell("<b>1</b>", 1.0)] * 30]
    browser.open(write(tmp_path, Section("t", page.table(headers, rows))), width=PHONE)
    assert browser.overflow() == []
