"""A small optimization problem, in NumPy and float64, for trajectories of other libraries."""

from typing import Any

import numpy as np

STEPS = 50
STORED = (0, 9, 49)  # The steps after which parameters are stored.
WARMUP = 5
RATE = 0.05
SHAPES = {"conv/kernel": (3, 2, 2, 3), "dense/kernel": (3, 5), "dense/bias": (5,)}
KERNELS = ("conv/kernel", "dense/kernel")
WEIGHT_DECAY = 0.02

Params = dict[str, Any]


def start() -> Params:
    """Returns the initial parameters by path; kernels of convolutions are `[h, w, I, O]`."""
    return {path: 0.5 * _waves(shape, 0.3) for path, shape in SHAPES.items()}


def noise(step: int) -> Params:
    """Returns the part of the gradient that changes with the step, as batches do."""
    return {path: _waves(shape, 1.7 + 0.9 * step) for path, shape in SHAPES.items()}


def gradient(params: Params, step: int) -> Params:
    """Returns the gradient of an artificial loss; parameters may be arrays of any library."""
    return {path: (0.5 + 0.02 * step) * params[path] + part for path, part in noise(step).items()}


def rates() -> np.ndarray:
    """Returns the learning rate of each step: a linear warm-up and half a cosine."""
    step = np.arange(STEPS)
    after = (step - WARMUP) / (STEPS - WARMUP)
    return RATE * np.where(step < WARMUP, (step + 1) / WARMUP, 0.5 * (1 + np.cos(np.pi * after)))


def _waves(shape: tuple[int, ...], phase: float) -> np.ndarray:
    count = np.arange(np.prod(shape))  # The square gives matrices their full rank.
    return np.cos(phase + 1.1 * count + 0.37 * count**2).reshape(shape)
