"""The browser of the tests reports messages, requests, overflow and clicks."""

from pathlib import Path

import pytest

from tests.report.browser import DESKTOP, PHONE, Browser

pytestmark = pytest.mark.xdist_group("browser")

_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<style>
  :root { color-scheme: light dark; --paper: rgb(255, 255, 255); }
  @media (prefers-color-scheme: dark) { :root { --paper: rgb(1, 2, 3); } }
  body { background: var(--paper); }
  .scroll { overflow-x: auto; } .wide { width: 800px; }
</style></head>
<body><div class="scroll"><p class="wide">in a box</p></div>INSERTED
<button onclick="this.textContent = 'pressed'">press</button></body></html>
"""


def write(folder: Path, inserted: str) -> Path:
    path = folder / "page.html"
    path.write_text(_PAGE.replace("INSERTED", inserted), encoding="utf-8")
    return path


def test_a_sound_page_has_no_findings_and_takes_clicks(browser: Browser, tmp_path: Path) -> None:
    browser.open(write(tmp_path, ""), width=PHONE)
    assert (browser.messages, browser.requests, browser.overflow()) == ([], [], [])
    assert browser.evaluate("innerWidth") == PHONE
    browser.click("button")
    assert browser.evaluate("document.querySelector('button').textContent") == "pressed"
    with pytest.raises(RuntimeError, match="no element"):
        browser.click("input")
    picture = tmp_path / "page.png"
    browser.screenshot(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_dark_and_light_are_emulated(browser: Browser, tmp_path: Path) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    for dark, colour in ((True, "rgb(1, 2, 3)"), (False, "rgb(255, 255, 255)")):
        browser.open(write(tmp_path, ""), dark=dark)
        assert browser.evaluate(background) == colour


def test_mistakes_of_a_page_are_found(browser: Browser, tmp_path: Path) -> None:
    script = "console.error('wrong', 3); nothing.at_all"
    broken = f"""<script>{script}</script><p class="wide">out of the box</p>
    <img src="http://127.0.0.1:9/picture.png">"""
    browser.open(write(tmp_path, broken), width=PHONE)
    assert browser.requests == ["http://127.0.0.1:9/picture.png"]
    assert len(browser.overflow()) == 1
    assert "out of the box" in browser.overflow()[0]
    assert any("wrong 3" in message for message in browser.messages)
    assert any("nothing is not defined" in message for message in browser.messages)
    browser.open(tmp_path / "page.html", width=DESKTOP)
    assert browser.overflow() == []
