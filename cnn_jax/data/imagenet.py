"""ImageNet's 1,000 classes (ILSVRC 2012): synsets, English names, and the statistics of pixels."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

# The values that torchvision and timm use, of pixels in [0, 1], for red, green and blue.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_FILE = Path(__file__).with_name("imagenet_classes.txt")


@functools.cache
def classes() -> Mapping[str, str]:
    """Returns the English name of each synset, such as 'tench' for 'n01440764'.

    Names are unique. The order is that of the synsets, which is the order of the labels in
    torchvision, timm and Keras.
    """
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    return MappingProxyType(dict(line.split("\t") for line in lines))


def readable(names: Sequence[str]) -> tuple[str, ...]:
    """Returns English names if all `names` are synsets of ImageNet, and else `names`.

    >>> readable(["n01440764", "n02206856"])
    ('tench', 'bee')
    >>> readable(["n01440764", "wasp"])
    ('n01440764', 'wasp')
    """
    known = classes()
    return tuple(known[name] for name in names) if known.keys() >= set(names) else tuple(names)
