"""Settings of all tests of training."""

from collections.abc import Iterator

import pytest

from tests import figures


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets runs draw no curves."""
    with figures.stand_in():
        yield
