"""Tests of the covariance of channels, for augmentations that read it."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax.contracts import Description
from cnn_jax.data import imagenet, moments, streamed
from cnn_jax.runs import descriptions, workdir
from tests.feeds import WHOLE, bind, numbered, stream, taken
from tests.streams import pictures

pytestmark = [pytest.mark.xdist_group("feeds"), pytest.mark.usefixtures("shared_programs")]
PCA: dict[str, Any] = {"augment": (("pca_colour", {}),), **WHOLE}
DESCRIPTION = Description(("a", "b"), None, (8, 8, 2), (0.5, 0.4), (0.2, 0.3))


def reference(images: list[np.ndarray], peak: float = 255.0) -> np.ndarray:
    """Returns NumPy's covariance `[C, C]` of all pixels together, scaled to [0, 1]."""
    pixels = np.concatenate([image.reshape(-1, image.shape[-1]) for image in images])
    return np.cov(pixels.astype(np.float64) / peak, rowvar=False, bias=True)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_covariance_is_that_of_numpy(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_PART", 500)  # Parts of several rows.
    images, peak = pictures(6), 255.0
    if dtype is np.float32:
        images, peak = [(image / 255).astype(dtype) for image in images], 1.0
    sums, plain = moments.Moments(3, dtype, covariance=True), moments.Moments(3, dtype)
    for image in images:
        sums.add(image)
        plain.add(image)
    found = np.array(sums.covariance())
    np.testing.assert_allclose(found, reference(images, peak), rtol=1e-10)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(np.sqrt(found.diagonal()), sums.mean_and_std()[1], rtol=1e-12)
    assert sums.mean_and_std() == plain.mean_and_std()
    assert plain.covariance() == ()


def test_equal_channels_have_equal_covariances() -> None:
    sums = moments.Moments(3, covariance=True)
    grey = pictures(1)[0][..., :1]
    sums.add(np.broadcast_to(grey, (*grey.shape[:2], 3)))
    np.testing.assert_allclose(sums.covariance(), np.full((3, 3), grey.var() / 255**2), rtol=1e-9)


@pytest.mark.parametrize("storage", ["resident", "streamed"])
def test_a_run_has_the_covariance_of_its_training_images(storage: str, tmp_path: Path) -> None:
    source = numbered(16)
    feed = bind(source, storage=storage, **PCA)
    images = [source.splits["train"][index]["image"] for index in range(16)]
    np.testing.assert_allclose(feed.description.covariance, reference(images), rtol=1e-10)
    workdir.save_description(tmp_path, feed.description)
    stored = workdir.load_description(tmp_path)
    assert stored == feed.description
    # A continued run has the stored values, also where they are no longer those of the images.
    other = dataclasses.replace(stored, covariance=((1.0, 0.0, 0.0),) * 3)
    assert bind(source, storage=storage, description=other, **PCA).description == other
    assert bind(source, storage=storage, **WHOLE).description.covariance == ()


def test_streamed_sets_have_an_estimate_and_keep_the_other_statistics(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = numbered(32)
    monkeypatch.setattr(streamed, "MOMENTS_SIZE", 10)
    feed = stream(source, **PCA)
    assert (feed.description.mean, feed.description.std) == (imagenet.MEAN, imagenet.STD)
    shown = taken(feed, 0, 2)["label"].ravel()[:10].tolist()
    images = [source.splits["train"][index]["image"] for index in shown]
    np.testing.assert_allclose(feed.description.covariance, reference(images), rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"covariance": [[1, 0]]}, "covariance must be empty, or have 2 rows of 2 numbers"),
        ({"covariance": [[1, 0], [1]]}, "covariance must be empty, or have 2 rows of 2 numbers"),
        ({"covariance": [[1, None], [1, 1]]}, "must be a list of lists of finite numbers"),
        ({"covariance": [1, 2]}, "covariance must be a list of lists of finite numbers"),
        ({"eval_size": [8]}, "eval_size must be null, or height and width of at most"),
        ({"eval_size": [60_000, 60_000]}, "eval_size must give an input of at most 50,331,648"),
    ],
)
def test_stored_fields_are_checked(changes: dict[str, Any], words: str) -> None:
    content = dataclasses.asdict(DESCRIPTION)
    assert descriptions.parse(json.dumps(content)) == DESCRIPTION
    older = {name: part for name, part in content.items() if name not in changes}
    assert descriptions.parse(json.dumps(older)) == DESCRIPTION
    with pytest.raises(ValueError, match=words):
        descriptions.parse(json.dumps({**content, **changes}))
