"""The pictures of this study: JPEGs of 500x375 pixels in ten class folders."""

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.input_pipeline import protocol

SIZE = (500, 375)  # width and height in pixels, as most pictures of ImageNet
QUALITY = 90
CLASSES = 10
_LEAST_WIDTH = 300  # of a crop, in pixels; the photographs have 640x427


def make(directory: Path) -> None:
    """Writes the pictures to `directory/train/CLASS/`; does nothing if they are there.

    Each is a crop of one of scikit-learn's two photographs at a random place and scale. The same
    files are made on each machine.
    """
    names = [f"train/class{number % CLASSES}/{number:04}.jpg" for number in range(protocol.IMAGES)]
    if (directory / names[-1]).exists():
        return
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    generator = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        picture = _crop(photographs[number % len(photographs)], generator)
        picture.save(partial, "JPEG", quality=QUALITY)
        partial.rename(path)


def _crop(photograph: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Returns a crop of a photograph, scaled to `SIZE`."""
    ratio = SIZE[0] / SIZE[1]
    most = min(photograph.width, int(photograph.height * ratio))
    width = int(generator.integers(_LEAST_WIDTH, most + 1))
    height = int(width / ratio)
    left = int(generator.integers(photograph.width - width + 1))
    top = int(generator.integers(photograph.height - height + 1))
    box = (left, top, left + width, top + height)
    return photograph.resize(SIZE, Image.Resampling.BICUBIC, box)
