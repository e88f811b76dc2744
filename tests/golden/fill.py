"""Formula-filled weights and inputs: reproducible on any machine, with NumPy alone.

`uniform(name, shape)` hashes `(crc32(name), flat index)` with splitmix64 and uses no random number
generator, so that the values do not depend on a NumPy version.
"""

import zlib

import numpy as np

_GOLDEN, _M1, _M2 = (
    np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float64 values in [-1, 1) that depend only on the name and the C-order index."""
    with np.errstate(over="ignore"):
        z = np.arange(1, int(np.prod(shape, dtype=np.int64)) + 1, dtype=np.uint64) * _GOLDEN
        z += np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        z = (z ^ (z >> np.uint64(30))) * _M1
        z = (z ^ (z >> np.uint64(27))) * _M2
        z ^= z >> np.uint64(31)
    return ((z >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0).reshape(shape)


def weight(name: str, shape: tuple[int, ...], gain: float = 1.0) -> np.ndarray:
    """Returns the value of a state-dict entry, which depends on its name and its rank.

    Args:
      name: the key; its last part selects the distribution.
      shape: in torch's layout.
      gain: variance of kernels times the fan-in.
    """
    last = name.rsplit(".", 1)[-1]
    u = uniform(name, shape)
    if last == "running_var":
        return 1.0 + 0.5 * u
    if last == "running_mean":
        return 0.1 * u
    if len(shape) >= 2 and last not in ("cls_token", "pos_embed", "class_token", "pos_embedding"):
        fan_in = np.prod(shape[1:])
        return u * np.sqrt(3.0 * gain / fan_in)
    if last == "weight" or last == "gamma":  # scales of normalisation and of layers
        return 0.9 + 0.3 * u
    return 0.1 * u  # biases, tokens, positions


def images(shape: tuple[int, int, int, int]) -> np.ndarray:
    """Returns a batch of images `[B, H, W, C]` in [-1, 1)."""
    return uniform("images", shape)


def parameter(path: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the initial value of a parameter of a small network, in Flax's layout.

    Args:
      path: the path in the tree, such as 'block1/conv1/kernel'.
      shape: in Flax's layout.
    """
    u = uniform(path, shape)
    last = path.rsplit("/", 1)[-1]
    if last == "kernel":
        return u * np.sqrt(6.0 / np.prod(shape[:-1]))  # variance 2 / fan-in
    return 0.9 + 0.3 * u if last == "scale" else 0.1 * u
