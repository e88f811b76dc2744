"""Tests of the files of an evaluation of many classes, on the digits of the shared run."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import limits
from cnn_jax.evaluators import of_run
from tests import figures

# In the process of the other tests of the shared run.
pytestmark = [pytest.mark.xdist_group("trained"), pytest.mark.usefixtures("shared_programs")]


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets evaluations draw no matrices."""
    with figures.stand_in():
        yield


@pytest.mark.parametrize("asked", [False, True])
def test_the_confusion_matrix_of_many_classes_is_written_on_request(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    few = json.loads(of_run.run(trained, "test", out=tmp_path / "few.json").path.read_bytes())
    monkeypatch.setattr(limits, "MAX_CONFUSION_CLASSES", 9)
    found = of_run.run(trained, "test", out=tmp_path / "many.json", confusion=asked)
    many = json.loads(found.path.read_bytes())
    assert many == {name: value for name, value in few.items() if name != "confusion"}
    assert found.written == tuple(
        tmp_path / name for name in ("many.json", *(["many.npy"] if asked else []))
    )
    if asked:
        np.testing.assert_array_equal(np.load(tmp_path / "many.npy"), few["confusion"])
    else:
        assert found.confusion.shape == (0, 0)
