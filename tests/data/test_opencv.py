"""Random crops of JPEG files by OpenCV, against Pillow's."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from sklearn import datasets

from cnn_jax import errors
from cnn_jax.data import crops, images, opencv, pillow
from cnn_jax.plan import Data
from tests.pictures import stored

PHOTOGRAPHS = [
    (Path(datasets.__file__).parent / "images" / name).read_bytes()
    for name in ("china.jpg", "flower.jpg")
]
CHINA = images.decode(PHOTOGRAPHS[0], 3, "china.jpg")
SMALL = CHINA[100:180, 200:311]
SMOOTH = images.stretch(images.stretch(SMALL, (20, 28), "bilinear"), (80, 111), "bicubic")
BASELINE, PROGRESSIVE, RESTARTS = (
    stored(SMALL, "JPEG", **options)
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1})
)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(SMOOTH, "JPEG", exif=exif)


def whole(height: int, width: int) -> tuple[int, int, int, int]:
    return 0, 0, height, width


def read(
    encoded: bytes, size: tuple[int, int], box: Any = whole, interpolation: str = "bilinear"
) -> np.ndarray | None:
    return opencv.read_crop(encoded, box, size, interpolation)


def difference(found: np.ndarray | None, exact: np.ndarray) -> float:
    assert found is not None
    return float(np.abs(found.astype(int) - exact).mean())


WHOLE = {
    "china": PHOTOGRAPHS[0],
    "flower": PHOTOGRAPHS[1],
    "baseline": BASELINE,
    "progressive": PROGRESSIVE,
    "restarts": RESTARTS,
    "colours unsampled": stored(SMALL, "JPEG", subsampling=0, quality=60),
}


@pytest.mark.parametrize("name", WHOLE)
def test_unscaled_pixels_are_pillows(name: str) -> None:
    encoded = WHOLE[name]
    exact = images.decode(encoded, 3, "image 3")
    np.testing.assert_array_equal(read(encoded, exact.shape[:2]), exact)
    part = read(encoded, (31, 42), lambda *_: (17, 5, 31, 42))
    np.testing.assert_array_equal(part, exact[17:48, 5:47])


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("box", [(0, 0, 80, 80), (3, 7, 41, 23), (8, 0, 64, 64)])
def test_regions_are_those_of_the_upright_image(turn: int, box: tuple[int, int, int, int]) -> None:
    encoded = turned(turn)
    upright = images.decode(encoded, 3, "image 3")
    assert upright.shape[:2] == ((111, 80) if turn >= 5 else (80, 111))
    exact = crops.Box(*box).cut(upright)
    np.testing.assert_array_equal(read(encoded, exact.shape[:2], lambda *_: box), exact)
    half = box[2] // 2, box[3] // 2
    reduced = read(encoded, half, lambda *_: box)
    assert difference(reduced, images.stretch(exact, half, "bilinear")) < 7


@pytest.mark.parametrize(
    ("region", "size", "by"),
    [
        ((224, 224), (224, 224), 1),
        ((447, 600), (224, 224), 1),
        ((448, 448), (224, 224), 2),
        ((900, 895), (224, 224), 2),
        ((896, 896), (224, 224), 4),
        ((3000, 4000), (224, 224), 8),
        ((3000, 4000), (224, 2001), 1),
        ((10, 10), (224, 224), 1),
    ],
)
def test_a_reduced_region_is_at_least_as_large_as_the_input(
    region: tuple[int, int], size: tuple[int, int], by: int
) -> None:
    assert opencv.reduction(region, size) == by


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=50)
def test_every_region_and_size_gives_a_crop(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 80)), data.draw(st.integers(1, 111))
    top, left = data.draw(st.integers(0, 80 - height)), data.draw(st.integers(0, 111 - width))
    size = data.draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    method = data.draw(st.sampled_from(images.INTERPOLATIONS))
    found = read(BASELINE, size, lambda *_: (top, left, height, width), method)
    assert found is not None
    assert found.shape == (*size, 3)
    assert found.dtype == np.uint8


# Mean absolute differences in grey levels, of all crops and of the worst crop. Measured: 1.46 and
# 5.1, 1.99 and 6.8, 3.82 and 9.7, 3.37 and 6.5. Both photographs have finer detail than most.
@pytest.mark.parametrize(
    ("crop", "size", "interpolation", "mean", "worst"),
    [
        ("random_resized", 224, "bilinear", 1.6, 5.5),
        ("random_resized", 224, "bicubic", 2.1, 7.5),
        ("random_resized", 64, "bilinear", 4, 10.5),
        ("random", 224, "bilinear", 3.6, 7),
    ],
)
def test_crops_of_photographs_differ_little(
    crop: str, size: int, interpolation: str, mean: float, worst: float
) -> None:
    differences = []
    for number in range(60):
        encoded = PHOTOGRAPHS[number % 2]
        exact, fast = (
            crops.train_crop(
                Data(
                    image_size=size,
                    channels=3,
                    resize=interpolation,
                    train_crop=crop,
                    eval_crop="centre",
                    decoder=decoder,
                )
            )(encoded, 3, "image 3", np.random.default_rng(number))
            for decoder in ("pillow", "opencv")
        )
        differences.append(difference(fast, exact))
    assert np.mean(differences) < mean
    assert max(differences) < worst


OTHERS = {
    "grey": stored(SMALL[..., 0], "JPEG"),
    "cmyk": stored(Image.fromarray(SMALL).convert("CMYK"), "JPEG"),
    "png": stored(SMALL),
    "webp": stored(SMALL, "WEBP"),
    "no end": BASELINE[:-2],
    "cut off": BASELINE[:2000],
    "stray marker": BASELINE[:2000] + b"\xff\xd8" + BASELINE[2000:],
    "marker of a reserved frame": BASELINE.replace(b"\xff\xc0", b"\xff\xc9"),
    "only a header": BASELINE[: BASELINE.index(b"\xff\xda")],
    "cut off in a marker": BASELINE[:2000] + b"\xff",
}
CROP = crops.RandomResized((24, 24), (0.08, 1), (3 / 4, 4 / 3), "bilinear")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_exact_decoder_decides_about_other_files(name: str, channels: int) -> None:
    assert read(OTHERS[name], (24, 24)) is None
    fast, exact = (
        outcome(crop, OTHERS[name], channels)
        for crop in (crops.FastTrainCrop(CROP), crops.TrainCrop(CROP))
    )
    np.testing.assert_array_equal(fast, exact)


def outcome(
    crop: crops.TrainCrop | crops.FastTrainCrop, encoded: bytes, channels: int
) -> np.ndarray | str:
    try:
        return crop(encoded, channels, "image 3", np.random.default_rng(0))
    except errors.UnreadableImageError as error:
        return str(error)


@hypothesis.given(
    st.sampled_from([BASELINE, PROGRESSIVE, RESTARTS]),
    st.floats(0, 1),
    st.floats(0, 0.2),
    st.sampled_from([b"", b"\0\0\0", b"\xff\xd9", b"\xff\xd4", b"\xff\xc4", b"\xff\xff", b"ab"]),
)
@hypothesis.settings(max_examples=200)
def test_damaged_files_that_pillow_refuses_are_refused(
    encoded: bytes, place: float, share: float, inserted: bytes
) -> None:
    start = 2 + int(place * (len(encoded) - 2))
    damaged = encoded[:start] + inserted + encoded[start + int(share * len(encoded)) :]
    try:
        exact = images.decode(damaged, 3, "image 3")
    except errors.UnreadableImageError:
        assert isinstance(outcome(crops.FastTrainCrop(CROP), damaged, 3), str)
    else:
        found = read(damaged, exact.shape[:2])
        np.testing.assert_array_equal(exact if found is None else found, exact)


def test_bytes_behind_the_end_are_ignored() -> None:
    exact = images.decode(BASELINE, 3, "image 3")
    np.testing.assert_array_equal(read(BASELINE + bytes(9) + BASELINE[:50], (80, 111)), exact)


def test_of_several_pictures_the_first_is_read() -> None:
    first, second = Image.fromarray(SMALL), Image.fromarray(SMALL[::-1])
    encoded = stored(first, "MPO", save_all=True, append_images=[second])
    assert pillow.header(encoded, "image 3").format == "MPO"
    found = read(encoded, (80, 111))
    np.testing.assert_array_equal(found, images.decode(encoded, 3, "image 3"))


def test_colours_become_grey_for_a_grey_network() -> None:
    exact = crops.TrainCrop(CROP)(PHOTOGRAPHS[0], 1, "image 3", np.random.default_rng(0))
    fast = crops.FastTrainCrop(CROP)(PHOTOGRAPHS[0], 1, "image 3", np.random.default_rng(0))
    assert fast.shape == (24, 24, 1)
    assert difference(fast, exact) < 8


@pytest.mark.parametrize("decoded", [None, np.zeros((80, 110, 3), np.uint8)])
def test_pillow_reads_a_file_that_opencv_fails_on(
    decoded: np.ndarray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opencv, "_decode", lambda *_: decoded)
    assert read(BASELINE, (24, 24)) is None
    made = crops.FastTrainCrop(CROP)(BASELINE, 3, "image 3", np.random.default_rng(0))
    assert made.shape == (24, 24, 3)


def test_opencv_uses_one_thread() -> None:
    opencv.check()
    assert opencv._opencv().getNumThreads() == 1


@pytest.mark.parametrize(
    ("module", "package"), [("cv2", "opencv-python-headless"), ("simplejpeg", "simplejpeg")]
)
def test_a_package_that_is_not_installed_is_an_error(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencv._opencv.cache_clear()
    opencv._simplejpeg.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    keys = Data(channels=3, resize="bilinear", train_crop="random_resized", decoder="opencv")
    with pytest.raises(errors.UserError, match=rf"pip install {package}.*'pillow'"):
        crops.check(keys)


def test_opencv_is_loaded_only_where_it_is_asked_for() -> None:
    code = (
        "import sys; from cnn_jax.data import crops; "
        "sys.exit(not {'cv2', 'simplejpeg'}.isdisjoint(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
