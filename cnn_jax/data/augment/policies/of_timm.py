"""timm's policies RandAugment and AutoAugment, with the definitions of Pillow.

Their configuration is timm's own text, such as `rand-m9-mstd0.5-inc1`. A level is from 0 to 10.
Source: `timm/data/auto_augment.py`, https://github.com/huggingface/pytorch-image-models.
"""

import abc
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax import contracts, schema
from cnn_jax.data.augment.operation import Operation, Stage, require_bytes, require_colours
from cnn_jax.data.augment.policies import layers, operations, sub_policies
from cnn_jax.data.augment.policies.operations import Chosen, Library

NAMES = (
    *("auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add"),
    *("saturation", "contrast", "brightness", "sharpness"),
    *("shear_x", "shear_y", "translate_x", "translate_y"),
)
"""The operations of RandAugment, in timm's order."""

_LEVELS = 10.0
_UNIFORM_FROM = 100.0  # a larger mstd means uniform levels
_TRANSLATE_SHARE = 0.45
_MOST_LAYERS = 100


class Rules(NamedTuple):
    """Rules of timm that give the argument of an operation for a level.

    Attributes:
      increasing: True if solarize and the four enhancements change the image more at higher levels.
      posterize: the bits that posterize keeps at level 0 and at level 10: 'decreasing', 0 and 4;
        'increasing', 4 and 0; 'original', 4 and 8.
    """

    increasing: bool
    posterize: str


_ENHANCEMENTS = ("saturation", "contrast", "brightness", "sharpness")
_POSTERIZE: Mapping[str, Callable[[jax.Array], jax.Array]] = MappingProxyType(
    {
        "decreasing": lambda share: jnp.floor(share * 4),
        "increasing": lambda share: 4 - jnp.floor(share * 4),
        "original": lambda share: jnp.floor(share * 4) + 4,
    }
)


def argument(
    name: str, level: jax.Array, sign: jax.Array, rules: Rules, size: tuple[int, int]
) -> jax.Array:
    """Returns the argument of an operation at a level; `operations.NAMES` has units; traceable.

    Args:
      name: the operation.
      level: from 0 to 10, or to `mmax`; any shape, float32.
      sign: 1, or -1 for a negated argument.
      rules: the rules of timm.
      size: height and width of the image in pixels.
    """
    share = level / _LEVELS
    if name == "posterize":
        return _POSTERIZE[rules.posterize](share)
    if name == "solarize":
        threshold = jnp.minimum(256, jnp.floor(share * 256))
        return 256 - threshold if rules.increasing else threshold
    if name == "solarize_add":
        return jnp.minimum(128, jnp.floor(share * 110))
    if name in _ENHANCEMENTS and rules.increasing:
        return jnp.maximum(0.1, 1 + sign * share * 0.9)
    if name in _ENHANCEMENTS:
        return share * 1.8 + 0.1
    return sign * share * _largest(name, size)


def _largest(name: str, size: tuple[int, int]) -> float:
    """Returns the argument at level 10 of an operation that moves pixels; 0 for others."""
    if name.startswith("translate"):
        return _TRANSLATE_SHARE * size[name == "translate_x"]
    return {"rotate": 30.0, "shear_x": 0.3, "shear_y": 0.3}.get(name, 0.0)


class Levels(NamedTuple):
    """The distribution of the level.

    Attributes:
      mean: the mean level of RandAugment. In AutoAugment, the sub-policies have mean levels.
      deviation: standard deviation of normal noise. Infinity draws uniformly from 0 to the mean.
      limit: the largest level.
    """

    mean: float
    deviation: float = 0.0
    limit: float = _LEVELS

    def draw(self, key: jax.Array, mean: jax.Array) -> jax.Array:
        """Draws a level for each mean level, clipped to [0, limit]; same shape as `mean`."""
        if math.isinf(self.deviation):
            level = mean * jax.random.uniform(key, mean.shape)
        elif self.deviation:
            level = mean + self.deviation * jax.random.normal(key, mean.shape)
        else:
            level = mean
        return jnp.clip(level, 0, self.limit)


class Settings(NamedTuple):
    """Parsed configuration of a policy.

    Attributes:
      policy: 'rand', or the key of `sub_policies.TABLES`.
      rules: the rules for the arguments.
      levels: the distribution of the level.
      layers: the number of operations for each image.
      probability: the probability that an operation is applied.
    """

    policy: str
    rules: Rules
    levels: Levels
    layers: int = 2
    probability: float = 1.0


_PART = re.compile(r"(?P<whole>m|n|mmax|inc)(\d+)|(?P<real>mstd|p)(\d+(?:\.\d*)?)")
_POLICIES: Mapping[str, tuple[str, Rules]] = MappingProxyType(
    {
        "v0": ("v0", Rules(increasing=False, posterize="decreasing")),
        "v0r": ("v0", Rules(increasing=False, posterize="increasing")),
        "original": ("imagenet", Rules(increasing=False, posterize="original")),
        "originalr": ("imagenet", Rules(increasing=False, posterize="increasing")),
    }
)


def read_rand(config: str) -> Settings:
    """Parses a configuration of RandAugment, such as 'rand-m9-mstd0.5-inc1'.

    Raises:
      ValueError: the text is not allowed; the message says why.
    """
    _, numbers = _parts(config, ("rand",), ("m", "n", "p", "mstd", "mmax", "inc"))
    increasing = bool(numbers.get("inc", 0))
    levels = Levels(
        numbers.get("m", _LEVELS), _deviation(numbers), numbers.get("mmax", 0) or _LEVELS
    )
    settings = Settings(
        "rand",
        Rules(increasing, "increasing" if increasing else "decreasing"),
        levels,
        int(numbers.get("n", 2)),
        numbers.get("p", 0.5),
    )
    if not 1 <= settings.layers <= _MOST_LAYERS or settings.probability > 1:
        raise ValueError(f"needs n from 1 to {_MOST_LAYERS} and p in [0, 1]")
    return settings


def read_auto(config: str) -> Settings:
    """Parses a configuration of AutoAugment, such as 'original-mstd0.5'.

    Raises:
      ValueError: the text is not allowed; the message says why.
    """
    name, numbers = _parts(config, tuple(_POLICIES), ("mstd",))
    policy, rules = _POLICIES[name]
    return Settings(policy, rules, Levels(0.0, _deviation(numbers)))


def _parts(config: str, first: Sequence[str], known: Sequence[str]) -> tuple[str, dict[str, float]]:
    """Returns the first part of a configuration, and the numbers of the others by name."""
    name, *others = config.split("-")
    if name not in first:
        raise ValueError(f"must start with {' or '.join(first)}")
    numbers = {}
    for part in others:
        match = _PART.fullmatch(part)
        key, digits = [group for group in match.groups() if group] if match else ("", "")
        if key not in known:
            raise ValueError(f"has the part {part!r}; allowed are {', '.join(known)} with a number")
        numbers[key] = float(digits)
    return name, numbers


def _deviation(numbers: Mapping[str, float]) -> float:
    deviation = numbers.get("mstd", 0.0)
    return math.inf if deviation > _UNIFORM_FROM else deviation


@dataclasses.dataclass(frozen=True)
class _Policy(Operation):
    """Base class of timm's policies. The fill is the mean of the data set, as in timm."""

    stage: ClassVar[Stage] = "bytes"
    title: ClassVar[str] = ""
    config: str = ""
    interpolation: str = schema.key(
        "random",
        "nearest, bilinear, bicubic, or random: bilinear or bicubic, drawn for each operation",
        schema.one_of("nearest", "bilinear", "bicubic", "random"),
    )

    @property
    @abc.abstractmethod
    def settings(self) -> Settings:
        """The parsed configuration."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The operations that can occur."""

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; see `Operation.problem`."""
        try:
            _ = self.settings
        except ValueError as error:
            return f"config {self.config!r} {error}"
        return ""

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        require_bytes(description, self.title)
        require_colours(description, self.title)
        fill = tuple(float(min(255, round(255 * mean))) for mean in description.mean)
        library = Library("pillow", operations.INTERPOLATIONS[self.interpolation], fill)
        return layers.augmentation(self.draw, library, self.names)

    def draw(self, key: jax.Array, shape: tuple[int, ...]) -> Chosen:
        """Draws the operations of images of a shape, `[L, B]`; traceable."""
        first, second, third, fourth = jax.random.split(key, 4)
        operation, mean, applied = self._draw_operations(first, shape[0])
        level = self.settings.levels.draw(second, mean)
        sign = 1.0 - 2.0 * layers.signs(third, mean.shape)
        value = jnp.zeros_like(level)
        for name in self.names:
            one = argument(name, level, sign, self.settings.rules, (shape[1], shape[2]))
            value = jnp.where(operation == operations.number(name), one, value)
        chosen = layers.where(applied, Chosen(operation, value))
        if self.interpolation == "random":
            chosen = chosen._replace(linear=jax.random.bernoulli(fourth, 0.5, mean.shape))
        return chosen

    @abc.abstractmethod
    def _draw_operations(
        self, key: jax.Array, batch: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Draws operations, their mean levels and the mask of those to apply, `[L, B]` each."""


@dataclasses.dataclass(frozen=True)
class RandAugmentTimm(_Policy):
    """timm's RandAugment: random operations, each applied with a probability.

    Source: Cubuk et al. 2019, arXiv:1909.13719; timm's `rand_augment_transform`.
    """

    title: ClassVar[str] = "rand_augment_timm"
    config: str = schema.key("rand-m9-mstd0.5-inc1", "timm's configuration string")

    @property
    def settings(self) -> Settings:
        """The parsed configuration."""
        return read_rand(self.config)

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that can occur."""
        return NAMES

    def _draw_operations(
        self, key: jax.Array, batch: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        first, second = jax.random.split(key)
        shape = (self.settings.layers, batch)
        places = jax.random.randint(first, shape, 0, len(NAMES))
        applied = jax.random.uniform(second, shape) < self.settings.probability
        mean = jnp.full(shape, self.settings.levels.mean, jnp.float32)
        return layers.numbers(NAMES)[places], mean, applied


@dataclasses.dataclass(frozen=True)
class AutoAugmentTimm(_Policy):
    """timm's AutoAugment: a random sub-policy of two operations.

    'original' is the paper's policy, 'v0' EfficientNet's; in 'originalr' and 'v0r', posterize
    keeps fewer bits at higher levels. Source: timm's `auto_augment_transform`.
    """

    title: ClassVar[str] = "auto_augment_timm"
    config: str = schema.key("v0", "v0, v0r, original or originalr; with noise: such as v0-mstd0.5")

    @property
    def settings(self) -> Settings:
        """The parsed configuration."""
        return read_auto(self.config)

    @property
    def names(self) -> tuple[str, ...]:
        """The operations that can occur."""
        return layers.names_of(sub_policies.TABLES[self.settings.policy])

    def _draw_operations(
        self, key: jax.Array, batch: int
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        policy = sub_policies.TABLES[self.settings.policy]
        places, applied = layers.sub_policies(policy, key, batch)
        steps = [step for pair in policy for step in pair]
        numbers = layers.numbers([name for name, _, _ in steps])
        means = jnp.array([level for _, _, level in steps], jnp.float32)
        return numbers[places], means[places], applied
