"""Fixtures of the tests of pages."""

from collections.abc import Iterator

import pytest

from tests.report.browser import Browser, running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; give its tests `pytest.mark.xdist_group("browser")` to share it."""
    with running() as started:
        yield started
