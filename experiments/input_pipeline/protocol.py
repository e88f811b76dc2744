"""The study's settings, and the conversation of `run.py` with the contenders.

A contender is a process of its own, so that its memory is its own. It imports this module in an
environment without JAX, so this module imports nothing of the project.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

IMAGES = 5_000
BATCH_SIZE = 64
IMAGE_SIZE = 224
WORKERS = 2
SCALE = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
# ImageNet's, as in torchvision's recipe.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def serve(batches: Iterator[Any]) -> None:
    """Answers each line 'COUNT' on the standard input with the seconds that COUNT batches took.

    Args:
      batches: endless batches of `BATCH_SIZE` images.
    """
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            next(batches)
        print(time.perf_counter() - start, flush=True)
