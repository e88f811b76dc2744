"""Writes `corruptions/hendrycks.npz` and `corruptions/imagecorruptions.npz`: corrupted images.

    git clone https://github.com/hendrycks/robustness
    python -m tests.golden.make_corruptions robustness

Needs imagecorruptions 1.1.2 (installed without its dependencies), scikit-image, SciPy, OpenCV and
Pillow. The clone has commit 8190fe32. Its scripts are executed from the helper functions to the end
of the distortions. Their random numbers are those of `draws.py`. These replacements in the text let
them run with today's libraries:

- `multichannel=True` of scikit-image by `channel_axis=-1`; `np.float_` by `np.float64`;
  `np.fromstring` by `np.frombuffer`; `scipy.ndimage.interpolation` by `scipy.ndimage`
- ImageMagick's motion blur by that of imagecorruptions, rounded to bytes as ImageMagick does
- the photographs of frost by `draws.PHOTOGRAPHS`; OpenCV's resize of them by Pillow's

A file has an array `[5, h, w, 3]` for each corruption: a sample of the pixels at each severity. The
array 'means' of a corruption has the means of all its pixels.
"""

import ctypes
import importlib.metadata
import io
import re
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from tests.golden import draws

DIRECTORY = Path(__file__).parent / "corruptions"
SCRIPTS = {32: "make_cifar_c.py", 64: "make_tinyimagenet_c.py", 224: "make_imagenet_c.py"}
REPLACED = {
    "multichannel=True": "channel_axis=-1",
    "np.float_": "np.float64",
    "np.fromstring": "np.frombuffer",
    "scipy.ndimage.interpolation": "scipy.ndimage",
    "from pkg_resources import resource_filename": "",
}
NAMES = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur"),
    *("zoom_blur", "snow", "frost", "fog", "brightness", "contrast", "elastic_transform"),
    *("pixelate", "jpeg_compression", "speckle_noise", "gaussian_blur", "saturate"),
)
# In imagecorruptions, these differ from the original: the parts of the enlarged flakes, the
# scaling of photographs, a transform without its affine part, and an enlargement without boxes.
OTHERS = ("snow", "frost", "elastic_transform", "pixelate")
Corruption = Callable[[Image.Image, int], Any]


def main() -> None:
    """Writes the files."""
    clone = Path(sys.argv[1])
    commit = subprocess.run(
        ["git", "-C", clone, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    packages = ("scikit-image", "scipy", "opencv-python-headless", "pillow", "numpy")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    theirs = of_imagecorruptions()
    DIRECTORY.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {"source": np.array(f"hendrycks/robustness {commit}, {versions}")}
    for size, script in SCRIPTS.items():
        text = subprocess.run(
            ["git", "-C", clone, "show", f"HEAD:ImageNet-C/create_c/{script}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        functions = of_script(text, theirs["_motion_blur"])
        for name, array in corrupted(functions, NAMES, draws.picture(size, size)):
            arrays[f"{size}/{name}"] = array
    np.savez_compressed(DIRECTORY / "hendrycks.npz", **arrays)
    version = importlib.metadata.version("imagecorruptions")
    arrays = {"source": np.array(f"imagecorruptions {version}, {versions}")}
    names = [name for name in NAMES if name not in OTHERS]
    arrays |= dict(corrupted(theirs, names, draws.picture(150, 200)))
    np.savez_compressed(DIRECTORY / "imagecorruptions.npz", **arrays)


def corrupted(
    functions: dict[str, Corruption], names: Any, image: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the samples and the means of each corruption at the five severities."""
    for name in names:
        found = []
        for severity in range(1, 6):
            numbers = draws.Draws(severity)
            with mock.patch.multiple(
                np.random,
                normal=numbers.normal,
                uniform=numbers.uniform,
                poisson=numbers.poisson,
                randint=numbers.integers,
                default_rng=lambda seed=None, numbers=numbers: numbers,
            ):
                result = functions[name](Image.fromarray(image), severity)
            found.append(np.asarray(result).astype(np.uint8))
        yield name, np.stack([draws.sample(result) for result in found])
        yield f"{name}/means", np.stack([result.mean() for result in found])


def patched(text: str) -> str:
    """Returns the text of a module after the replacements."""
    for old, new in REPLACED.items():
        text = text.replace(old, new)
    return text


def of_imagecorruptions() -> dict[str, Any]:
    """Returns the functions of imagecorruptions."""
    place = importlib.metadata.distribution("imagecorruptions")
    path = Path(str(place.locate_file("imagecorruptions/corruptions.py")))
    functions: dict[str, Any] = {}
    exec(patched(path.read_text()), functions)
    return functions


def of_script(text: str, blur: Callable[..., np.ndarray]) -> dict[str, Any]:
    """Returns the functions of a script of hendrycks/robustness."""
    import cv2
    import skimage
    from scipy import ndimage
    from skimage import filters

    class Wand:
        """Image of ImageMagick."""

        def __init__(self, blob: bytes) -> None:
            self.wand = self
            self.pixels = np.asarray(Image.open(io.BytesIO(blob)))

        def make_blob(self) -> bytes:
            file = io.BytesIO()
            Image.fromarray(self.pixels).save(file, "PNG")
            return file.getvalue()

    def motion_blur(wand: Wand, radius: int, sigma: float, angle: float) -> None:
        blurred = blur(wand.pixels, radius=radius, sigma=sigma, angle=angle)
        wand.pixels = np.rint(blurred).astype(np.uint8)

    def read(path: str) -> np.ndarray:
        number = int(re.findall(r"\d", path)[0])
        return draws.PHOTOGRAPHS[number - 1][..., ::-1]

    def resize(image: np.ndarray, _: Any, fx: float, fy: float) -> np.ndarray:
        size = round(image.shape[1] * fx), round(image.shape[0] * fy)
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))

    opencv = types.SimpleNamespace(**{name: getattr(cv2, name) for name in dir(cv2)})
    opencv.imread, opencv.resize = read, resize
    functions: dict[str, Any] = {
        "np": np,
        "sk": skimage,
        "gaussian": filters.gaussian,
        "BytesIO": io.BytesIO,
        "WandImage": Wand,
        "wandlibrary": types.SimpleNamespace(MagickMotionBlurImage=motion_blur),
        "ctypes": ctypes,
        "PILImage": Image,
        "cv2": opencv,
        "scizoom": ndimage.zoom,
        "map_coordinates": ndimage.map_coordinates,
    }
    start, end = text.index("def disk("), text.index("# /////////////// End Distortions")
    exec(patched(text[start:end]), functions)
    return functions


if __name__ == "__main__":
    main()
