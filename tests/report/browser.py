"""Headless Chromium for tests of pages, through the DevTools protocol over a pipe.

The protocol is at https://chromedevtools.github.io/devtools-protocol. Pipes need no package and no
port. `conftest.py` has the fixture `browser`, one instance for all tests of a process.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PHONE, DESKTOP = 390, 1280
"""Widths of a viewport in CSS pixels."""

_SECONDS = 90.0  # that a command may take on a busy machine
_SWITCHES = (
    *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-gpu", "--mute-audio"),
    *("--disable-dev-shm-usage", "--disable-extensions", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
# Chromium reads commands from descriptor 3 and writes to 4.
_LAUNCHER = """
import os, sys
read, write = (os.dup(int(number)) for number in sys.argv[1:3])
while read < 5 or write < 5:
    read, write = os.dup(read), os.dup(write)
os.dup2(read, 3)
os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OVERFLOW = """
(() => {
  const width = document.documentElement.clientWidth;
  const found = [];
  if (document.documentElement.scrollWidth > width) {
    for (const element of document.body.querySelectorAll("*")) {
      let scrolls = false;
      for (let box = element.parentElement; box; box = box.parentElement) {
        if (box !== document.documentElement && box !== document.body
            && getComputedStyle(box).overflowX !== "visible") scrolls = true;
      }
      const right = element.getBoundingClientRect().right + window.scrollX;
      if (!scrolls && right > width + 0.5) {
        found.push(`${element.tagName.toLowerCase()}.${element.getAttribute("class") || ""} ends `
          + `at ${Math.round(right)} of ${width}: ${element.textContent.trim().slice(0, 60)}`);
      }
    }
    if (!found.length) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
  }
  return found.slice(0, 10);
})()
"""
_CENTRE = """
(() => {
  const element = document.querySelector(%s);
  if (!element) return null;
  element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
  const box = element.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
})()
"""


def executable() -> str:
    """Returns the path of Chromium; skips the test if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None or not hasattr(select, "poll"):
        pytest.skip(f"no Chromium: none of {', '.join(NAMES)} is on the PATH")
    return found


class Browser:
    """A running Chromium with one page.

    Attributes:
      messages: the console messages, uncaught exceptions and refused resources since `open`.
      requests: the addresses that the page asked for since `open`, other than files and data.
    """

    def __init__(self, path: str, profile: Path) -> None:
        """Starts Chromium.

        Args:
          path: the executable.
          profile: a new directory for its settings.
        """
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._unread = b""
        self._events: list[str] = []
        self._session = ""
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(read), str(write), path]
        self._process = subprocess.Popen(
            [*command, *_SWITCHES, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(read, write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(profile)},
        )
        os.close(read)
        os.close(write)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command of the protocol, and returns its result.

        Raises:
          RuntimeError: the command failed.
        """
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + _SECONDS
        while (answer := self._receive(deadline)).get("id") != self._number:
            self._note(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(
        self, page: Path, *, width: int = DESKTOP, height: int = 900, dark: bool = False
    ) -> None:
        """Opens a page, and waits until it is loaded.

        Args:
          page: an HTML file.
          width: of the viewport, in CSS pixels; below 600, that of a phone.
          height: of the viewport, in CSS pixels.
          dark: True for `prefers-color-scheme: dark`.
        """
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.messages.clear()
        self.requests.clear()
        self._events.clear()
        result = self.call("Page.navigate", url=page.resolve().as_uri())
        if result.get("errorText"):
            raise RuntimeError(f"{page}: {result['errorText']}")
        deadline = time.monotonic() + _SECONDS
        while "Page.loadEventFired" not in self._events:
            self._note(self._receive(deadline))

    def evaluate(self, expression: str) -> Any:
        """Returns the value of a JavaScript expression; a promise is awaited.

        Raises:
          RuntimeError: it threw an exception.
        """
        options = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        if "exceptionDetails" in answer:
            raise RuntimeError(_exception(answer["exceptionDetails"]))
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Clicks with the mouse on the centre of the first element of a CSS selector.

        Raises:
          RuntimeError: there is none.
        """
        centre = self.evaluate(_CENTRE % json.dumps(selector))
        if centre is None:
            raise RuntimeError(f"no element {selector}")
        place = {"x": centre[0], "y": centre[1], "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **place)

    def overflow(self) -> list[str]:
        """Returns the elements that end beyond the viewport; empty if nothing scrolls sideways."""
        return self.evaluate(_OVERFLOW)

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Writes a PNG file of the page.

        Args:
          path: the file.
          whole: True for the whole page, up to 12,000 pixels; False for the viewport.
        """
        options: dict[str, Any] = {"format": "png"}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            height = min(size["height"], 12_000)
            options["clip"] = {"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **options)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """Ends Chromium."""
        self._session = ""
        with contextlib.suppress(OSError, RuntimeError):
            self.call("Browser.close")
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def _receive(self, deadline: float) -> dict[str, Any]:
        """Returns the next message of Chromium."""
        while b"\0" not in self._unread:
            waiting = select.poll()
            waiting.register(self._read, select.POLLIN)
            if not waiting.poll(max(0, deadline - time.monotonic()) * 1000):
                raise RuntimeError(f"Chromium did not answer within {_SECONDS:g} seconds")
            part = os.read(self._read, 2**20)
            if not part:
                raise RuntimeError("Chromium ended")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        """Keeps an event: its name, and the message or the request in it."""
        name, content = event.get("method", ""), event.get("params", {})
        self._events.append(name)
        if name == "Runtime.consoleAPICalled":
            texts = [str(part.get("value", part.get("description"))) for part in content["args"]]
            self.messages.append(f"{content['type']}: {' '.join(texts)}")
        elif name == "Runtime.exceptionThrown":
            self.messages.append(f"exception: {_exception(content['exceptionDetails'])}")
        elif name == "Log.entryAdded":
            self.messages.append(f"{content['entry']['level']}: {content['entry']['text']}")
        elif name == "Network.requestWillBeSent":
            address = content["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:")):
                self.requests.append(address)


def _exception(details: dict[str, Any]) -> str:
    return details.get("exception", {}).get("description") or details["text"]


@contextlib.contextmanager
def running() -> Iterator[Browser]:
    """Yields a browser, which is ended afterwards; skips the test if there is no Chromium."""
    path = executable()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        started = Browser(path, Path(profile))
        try:
            yield started
        finally:
            started.close()
