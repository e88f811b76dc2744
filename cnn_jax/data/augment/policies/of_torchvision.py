"""torchvision's policies: RandAugment, TrivialAugmentWide, AutoAugment and AugMix.

The operations, magnitudes and probabilities are those of `torchvision.transforms.v2` on uint8
tensors.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnn_jax import contracts, schema
from cnn_jax.data.augment.operation import (
    Operation,
    Stage,
    fill_of,
    require_bytes,
    require_colours,
    shares,
)
from cnn_jax.data.augment.policies import layers, operations, sub_policies
from cnn_jax.data.augment.policies.operations import Chosen, Library

_SIGNED = (
    *("rotate", "shear_x", "shear_y", "translate_x", "translate_y"),
    *("brightness", "saturation", "contrast", "sharpness"),
)
_WITHOUT_MAGNITUDE = ("identity", "auto_contrast", "equalize", "invert")
_AUTO_AUGMENT_BINS = 10
_AUGMIX_BINS = 10
_AUGMIX_LONGEST = 3  # operations in a chain of random length


@dataclasses.dataclass(frozen=True)
class Space:
    """The operations of a policy and their largest magnitudes.

    Attributes:
      names: the operations.
      shear: largest tangent of the angle.
      rotate: largest angle in degrees.
      enhance: largest change of the factor of brightness, contrast, saturation and sharpness.
      translate: largest translation, in pixels.
      translate_share: the same, as a share of the image's side.
      posterize: bits that are kept at the smallest and at the largest magnitude.
    """

    names: tuple[str, ...]
    shear: float = 0.3
    rotate: float = 30.0
    enhance: float = 0.9
    translate: float = 0.0
    translate_share: float = 0.0
    posterize: tuple[int, int] = (8, 4)

    def magnitudes(self, name: str, bins: int, size: tuple[int, int]) -> np.ndarray:
        """Returns the magnitudes of an operation, `[bins]` float32.

        Args:
          name: the operation.
          bins: the number of magnitudes.
          size: height and width of the image in pixels.
        """
        if name in _WITHOUT_MAGNITUDE:
            return np.zeros(bins, np.float32)
        if name == "posterize":
            first, last = self.posterize
            steps = np.arange(bins, dtype=np.float32) / np.float32((bins - 1) / (first - last))
            return np.round(np.float32(first) - steps)
        if name == "solarize":
            return _linspace(1.0, 0.0, bins)
        return _linspace(0.0, self._largest(name, size), bins)

    def _largest(self, name: str, size: tuple[int, int]) -> float:
        if name.startswith("shear"):
            return self.shear
        if name.startswith("translate"):
            return self.translate or self.translate_share * size[name == "translate_x"]
        return self.rotate if name == "rotate" else self.enhance

    def arguments(self, name: str, bins: int, size: tuple[int, int]) -> np.ndarray:
        """Returns the arguments of an operation and the negated ones, `[bins, 2]` float32.

        Args are those of `magnitudes`.
        """
        magnitudes = self.magnitudes(name, bins, size)
        signs = (1, -1) if name in _SIGNED else (1, 1)
        return np.stack([argument(name, sign * magnitudes) for sign in signs], axis=-1)

    def table(self, bins: int, size: tuple[int, int]) -> np.ndarray:
        """Returns the arguments of all operations, `[n, bins, 2]` float32."""
        return np.stack([self.arguments(name, bins, size) for name in self.names])


def argument(name: str, magnitudes: np.ndarray) -> np.ndarray:
    """Converts magnitudes to arguments of an operation, in the units of `operations.NAMES`."""
    if name in ("brightness", "contrast", "saturation", "sharpness"):
        return np.float32(1) + magnitudes
    if name == "solarize":
        return np.float32(255) * magnitudes
    return np.trunc(magnitudes) if name.startswith("translate") else magnitudes


_NAMES = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate"),
    *("brightness", "saturation", "contrast", "sharpness"),
    *("posterize", "solarize", "auto_contrast", "equalize"),
)
_PAPER_TRANSLATION = 150 / 331  # of the side: 150 pixels at the paper's size
SPACES: Mapping[str, Space] = MappingProxyType(
    {
        "rand_augment": Space(_NAMES, translate_share=_PAPER_TRANSLATION),
        "trivial_augment_wide": Space(
            _NAMES, shear=0.99, rotate=135.0, enhance=0.99, translate=32.0, posterize=(8, 2)
        ),
        "auto_augment": Space((*_NAMES[1:], "invert"), translate_share=_PAPER_TRANSLATION),
        "augmix": Space(_NAMES[1:], translate_share=1 / 3, posterize=(4, 0)),
        "augmix_partial": Space(
            tuple(name for name in _NAMES[1:] if name not in _NAMES[6:10]),
            translate_share=1 / 3,
            posterize=(4, 0),
        ),
    }
)
"""The operations of each policy; 'augmix_partial': of AugMix without `all_ops`."""

_INTERPOLATION = schema.one_of("nearest", "bilinear")
_BINS = schema.at_least(2, 1001)


@dataclasses.dataclass(frozen=True)
class _Policy(Operation):
    """Base class of torchvision's policies, with their common options."""

    stage: ClassVar[Stage] = "bytes"
    title: ClassVar[str] = ""
    interpolation: str = schema.key("nearest", "nearest or bilinear", _INTERPOLATION)
    fill: tuple[float, ...] = schema.key(
        (), "pixel outside the image, in [0, 1]; empty: black, torchvision's None", shares
    )

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_bytes(description, self.title)
        require_colours(description, self.title)
        interpolation = operations.INTERPOLATIONS[self.interpolation]
        fill = fill_of(self.fill, description, self.title)
        return self._augmentation(Library("torchvision", interpolation, fill))

    def _augmentation(self, library: Library) -> contracts.Augmentation:
        return layers.augmentation(self.draw, library, SPACES[self.title].names)

    @abc.abstractmethod
    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[L, B]`; traceable."""


@dataclasses.dataclass(frozen=True)
class RandAugment(_Policy):
    """torchvision's RandAugment: random operations of one magnitude.

    Source: Cubuk et al. 2019, arXiv:1909.13719; torchvision's `RandAugment`.
    """

    title: ClassVar[str] = "rand_augment"
    num_ops: int = schema.key(2, "operations for each image", schema.at_least(1, 101))
    magnitude: int = schema.key(9, "index of their magnitude, from 0", schema.at_least(0))
    num_magnitude_bins: int = schema.key(31, "number of magnitudes", _BINS)

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; see `Operation.problem`."""
        if self.magnitude < self.num_magnitude_bins:
            return ""
        return (
            f"magnitude must be below num_magnitude_bins, {self.num_magnitude_bins}, got "
            f"{self.magnitude}"
        )

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[L, B]`; traceable."""
        first, second = jax.random.split(key)
        size = (self.num_ops, shape[0])
        bins = jnp.full(size, self.magnitude)
        return _uniform(self.title, first, second, bins, self.num_magnitude_bins, shape)


@dataclasses.dataclass(frozen=True)
class TrivialAugmentWide(_Policy):
    """torchvision's TrivialAugmentWide: one random operation of a random magnitude.

    Source: Müller and Hutter 2021, arXiv:2103.10158; torchvision's `TrivialAugmentWide`.
    """

    title: ClassVar[str] = "trivial_augment_wide"
    num_magnitude_bins: int = schema.key(31, "number of magnitudes", _BINS)

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[L, B]`; traceable."""
        first, second, third = jax.random.split(key, 3)
        bins = jax.random.randint(third, (1, shape[0]), 0, self.num_magnitude_bins)
        return _uniform(self.title, first, second, bins, self.num_magnitude_bins, shape)


@dataclasses.dataclass(frozen=True)
class AutoAugment(_Policy):
    """torchvision's AutoAugment: a random sub-policy of two operations.

    Source: Cubuk et al. 2018, arXiv:1805.09501; torchvision's `AutoAugment`. The policy 'imagenet'
    is that of the paper, not EfficientNet's v0.
    """

    title: ClassVar[str] = "auto_augment"
    policy: str = schema.key(
        "imagenet",
        "imagenet, cifar10 or svhn",
        schema.one_of("imagenet", "cifar10", "svhn"),
    )

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[2, B]`; traceable."""
        space = SPACES[self.title]
        size = (shape[1], shape[2])

        def arguments(name: str, level: int) -> np.ndarray:
            return space.arguments(name, _AUTO_AUGMENT_BINS, size)[level]

        return layers.with_sub_policies(sub_policies.TABLES[self.policy], arguments, key, shape[0])


@dataclasses.dataclass(frozen=True)
class AugMix(_Policy):
    """torchvision's AugMix: a weighted mean of the image and of chains of random operations.

    Source: Hendrycks et al. 2019, arXiv:1912.02781; torchvision's `AugMix`. The consistency loss
    of the paper is not part of it.
    """

    title: ClassVar[str] = "augmix"
    interpolation: str = schema.key("bilinear", "nearest or bilinear", _INTERPOLATION)
    severity: int = schema.key(
        3, "number of magnitudes to draw from: the smallest of 10", schema.within(1, 11)
    )
    mixture_width: int = schema.key(3, "number of chains", schema.within(1, 17))
    chain_depth: int = schema.key(
        -1, "operations in a chain; -1: 1 to 3 at random", schema.one_of(-1, *range(1, 11))
    )
    alpha: float = schema.key(1.0, "parameters of the Dirichlet distributions", schema.above(0))
    all_ops: bool = schema.key(True, "use brightness, contrast, saturation and sharpness, too")

    @property
    def _space(self) -> str:
        return "augmix" if self.all_ops else "augmix_partial"

    @property
    def _depth(self) -> int:
        return self.chain_depth if self.chain_depth > 0 else _AUGMIX_LONGEST

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of all chains, one chain after another; traceable.

        The arrays are `[chains * depth, B]`. Shorter chains are filled up with the identity.
        """
        first, second, third, fourth = jax.random.split(key, 4)
        chains, batch = self.mixture_width, shape[0]
        bins = jax.random.randint(third, (chains * self._depth, batch), 0, self.severity)
        chosen = _uniform(self._space, first, second, bins, _AUGMIX_BINS, shape)
        if self.chain_depth > 0:
            return chosen
        depths = jax.random.randint(fourth, (chains, 1, batch), 1, _AUGMIX_LONGEST + 1)
        used = (jnp.arange(_AUGMIX_LONGEST)[:, None] < depths).reshape(-1, batch)
        return layers.where(used, chosen)

    def draw_weights(self, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
        """Draws the weights of the images, `[B]`, and of their chains, `[chains, B]`; traceable."""
        first, second = jax.random.split(key)
        alphas = jnp.full(self.mixture_width, self.alpha, jnp.float32)
        own = jax.random.beta(first, self.alpha, self.alpha, (batch,), jnp.float32)
        weights = jax.random.dirichlet(second, alphas, (batch,)).T
        return own, weights * (1 - own)

    def _augmentation(self, library: Library) -> contracts.Augmentation:
        names = SPACES[self._space].names

        def augment(key: jax.Array, batch: contracts.Batch) -> contracts.Batch:
            first, second = jax.random.split(key)
            images = batch["image"]
            chosen = self.draw(first, images.shape)
            weights = self.draw_weights(second, len(images))
            return {**batch, "image": mix(images, chosen, *weights, library, names)}

        return augment


def mix(
    images: jax.Array,
    chosen: Chosen,
    own: jax.Array,
    weights: jax.Array,
    library: Library,
    names: Sequence[str],
) -> jax.Array:
    """Returns the weighted mean of each image and of its chains of operations; traceable.

    Args:
      images: `[B, H, W, C]` uint8.
      chosen: arrays `[chains * depth, B]`, one chain after another.
      own: `[B]`, the weights of the unchanged images.
      weights: `[chains, B]`, the weights of the chains.
      library: the definitions of the operations.
      names: the operations that can occur.
    """
    chains = jax.tree.map(lambda each: each.reshape(len(weights), -1, *each.shape[1:]), chosen)

    def add(mixed: jax.Array, chain: tuple[Chosen, jax.Array]) -> tuple[jax.Array, None]:
        steps, weight = chain
        changed = layers.apply(images, steps, library, names)
        return mixed + weight[:, None, None, None] * changed, None

    # A loop, so that a chain is compiled once.
    mixed, _ = lax.scan(add, own[:, None, None, None] * images, (chains, weights))
    return mixed.astype(images.dtype)


def _uniform(
    space: str,
    first: jax.Array,
    second: jax.Array,
    bins: jax.Array,
    num_bins: int,
    shape: tuple[int, ...],
) -> Chosen:
    """Draws operations with equal probabilities from one of `SPACES`.

    Args:
      space: a key of `SPACES`.
      first: the PRNG key of the operations.
      second: the PRNG key of the signs.
      bins: `[L, B]` int32, the indices of the magnitudes.
      num_bins: the number of magnitudes.
      shape: the shape of the images.
    """
    names = SPACES[space].names
    table = SPACES[space].table(num_bins, (shape[1], shape[2]))
    operation = jax.random.randint(first, bins.shape, 0, len(names))
    return layers.with_table(names, table, operation, bins, second)


def _linspace(first: float, last: float, count: int) -> np.ndarray:
    """Returns evenly spaced numbers as `torch.linspace` computes them in float32.

    Translations are truncated to pixels, so that the last bit matters. Each half is computed from
    its end, by a product and a sum that are rounded once.
    """
    start, end = np.float32(first), np.float32(last)
    step = np.float64((end - start) / np.float32(count - 1))
    places = np.arange(count)
    values = np.where(places < count // 2, start + step * places, end - step * places[::-1])
    return values.astype(np.float32)
