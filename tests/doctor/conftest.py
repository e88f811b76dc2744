"""Settings of the tests of the doctor."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cnn_jax.doctor import (
    nvidia,
    settings,
)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Removes the settings of the machine that runs the tests."""
    for name in (*settings.VARIABLES, "LD_LIBRARY_PATH", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(nvidia, "_FILES", (tmp_path / "nvidia0",))
    nvidia.query.cache_clear()
    yield
    nvidia.query.cache_clear()
