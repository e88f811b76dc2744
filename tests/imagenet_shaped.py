"""Small folder in the shape of ImageNet, on which every ImageNet config can be tried.

    python -m tests.imagenet_shaped DIR

The images are crops of scikit-learn's two photographs. Like ImageNet's, they have many sizes of at
most about 500x400 pixels; some are grey or CMYK, and one is a PNG file whose name ends in .JPEG.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from cnn_jax.data import imagenet

# Formats of some training images of a class, by their number. Only the first class has a PNG file.
_FORMATS = {2: ("JPEG", "L"), 5: ("JPEG", "CMYK"), 7: ("PNG", "RGB")}
_USUAL = ("JPEG", "RGB")


def make(directory: Path, classes: int = 4, images_per_class: int = 16, seed: int = 0) -> None:
    """Writes `DIR/train/SYNSET/*.JPEG` and `DIR/val/SYNSET/*.JPEG`.

    Args:
      directory: DIR; it must not hold these folders yet.
      classes: the number of classes, evenly spaced among ImageNet's.
      images_per_class: the number of training images of each class. A quarter of it is the number
        of validation images. 'train[99%:]', which the configs use, needs more than 50 images.
      seed: seed of the crops.
    """
    rng = np.random.default_rng(seed)
    photographs = load_sample_images().images
    synsets = list(imagenet.classes())
    for label in range(classes):
        synset = synsets[label * len(synsets) // classes]
        # The photograph and the order of colours make classes that a network can tell apart.
        photograph = np.roll(photographs[label % len(photographs)], label // 2, axis=-1)
        for split, count in (("train", images_per_class), ("val", images_per_class // 4)):
            folder = directory / split / synset
            folder.mkdir(parents=True)
            for number in range(count):
                form, mode = _FORMATS.get(number, _USUAL) if split == "train" else _USUAL
                if form == "PNG" and label > 0:
                    form = "JPEG"
                image = Image.fromarray(_crop(photograph, rng)).convert(mode)
                image.save(folder / f"{synset}_{number}.JPEG", form)


def _crop(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a random part of a photograph of 427x640 pixels."""
    height, width = rng.integers((150, 180), (426, 520))
    top, left = rng.integers((427 - height, 640 - width))
    return photograph[top : top + height, left : left + width]


if __name__ == "__main__":
    make(Path(sys.argv[1]))
