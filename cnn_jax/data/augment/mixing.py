"""Mixing of pairs of examples: mixup, CutMix, and the random choice of one for each batch.

Each augmentation takes normalised images, draws once per batch, and sets `target` `[B, K]`. The
field `label` stays the class of the example itself, for metrics.
"""

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from cnn_jax import contracts, schema
from cnn_jax.data.augment.operation import SHARE, Operation, Stage


class Convention(NamedTuple):
    """Rules of mixup and CutMix that differ between the libraries.

    Attributes:
      partner: 'flip': example `i` is mixed with example `B - 1 - i`; 'roll': with `i - 1`.
      even_boxes: True if the box of CutMix extends by as many pixels before its centre as after it.
        Its sides are then even before clipping.
      at_least_half: True if an example keeps at least half of itself in mixup.
    """

    partner: str
    even_boxes: bool
    at_least_half: bool = False


CONVENTIONS: Mapping[str, Convention] = MappingProxyType(
    {
        "timm": Convention("flip", even_boxes=False),
        "torchvision": Convention("roll", even_boxes=True),
        "big_vision": Convention("roll", even_boxes=True, at_least_half=True),
    }
)
"""timm: `timm.data.Mixup` in its mode 'batch'. torchvision: `transforms.v2.MixUp` and `CutMix`.
big_vision: `utils.get_mixup`, which has no CutMix."""

_ALPHA = schema.above(0)
_CONVENTION = schema.one_of(*CONVENTIONS)


class Shares(NamedTuple):
    """Weights of the partner in each mixed example; the example itself has the rest up to 1.

    Attributes:
      pixels: the weight in the image, `[H, W]` float32, or `[1, 1]` if it is the same everywhere.
      target: the weight in the target, scalar float32.
    """

    pixels: jax.Array
    target: jax.Array


@dataclasses.dataclass(frozen=True)
class Mixup(Operation):
    """Mixup: the weighted mean of two examples, of their images and of their targets.

    Source: Zhang et al. 2017, arXiv:1710.09412.
    """

    stage: ClassVar[Stage] = "normalised"
    alpha: float = schema.key(1.0, "both parameters of the weight's Beta distribution", _ALPHA)
    probability: float = schema.key(1.0, "share of the batches that are mixed", SHARE)
    convention: str = schema.key("timm", "timm, torchvision or big_vision", _CONVENTION)

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        both = MixupCutmix(self.alpha, 1.0, self.probability, 0.0, self.convention)
        return both.make(description)


@dataclasses.dataclass(frozen=True)
class Cutmix(Operation):
    """CutMix: replaces a box of each image by that of another example.

    The other example's weight in the target is the fraction of the image that the clipped box
    covers. Source: Yun et al. 2019, arXiv:1905.04899.
    """

    stage: ClassVar[Stage] = "normalised"
    alpha: float = schema.key(1.0, "both parameters of the area's Beta distribution", _ALPHA)
    probability: float = schema.key(1.0, "share of the batches that are mixed", SHARE)
    convention: str = schema.key("timm", "timm or torchvision", _CONVENTION)

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; see `Operation.problem`."""
        return _without_cutmix(self.convention)

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        both = MixupCutmix(1.0, self.alpha, self.probability, 1.0, self.convention)
        return both.make(description)


@dataclasses.dataclass(frozen=True)
class MixupCutmix(Operation):
    """The random choice of mixup or CutMix, one for each batch.

    With 'timm', it is `timm.data.Mixup` in its mode 'batch'. With 'torchvision', it is
    `RandomChoice` of `MixUp` and `CutMix`, as in torchvision's training reference.
    """

    stage: ClassVar[Stage] = "normalised"
    mixup_alpha: float = schema.key(0.8, "both parameters of mixup's Beta distribution", _ALPHA)
    cutmix_alpha: float = schema.key(1.0, "both parameters of CutMix's Beta distribution", _ALPHA)
    probability: float = schema.key(1.0, "share of the batches that are mixed", SHARE)
    switch_probability: float = schema.key(0.5, "share of CutMix among them", SHARE)
    convention: str = schema.key("timm", "timm or torchvision", _CONVENTION)

    def problem(self) -> str:
        """Returns the reason why the options are not allowed; see `Operation.problem`."""
        return _without_cutmix(self.convention)

    def make(self, description: contracts.Description) -> contracts.Augmentation:
        """Returns the augmentation; see `Operation.make`."""
        size = description.input_shape[:2]
        partner = CONVENTIONS[self.convention].partner

        def augment(key: jax.Array, batch: contracts.Batch) -> contracts.Batch:
            return mix(batch, self._draw(key, size), partner, description.num_classes)

        return augment

    def _draw(self, key: jax.Array, size: tuple[int, int]) -> Shares:
        """Draws the shares of a batch; `size` is height and width of the images in pixels."""
        rules = CONVENTIONS[self.convention]
        applied, switch, first, second = jax.random.split(key, 4)
        is_cutmix = jax.random.bernoulli(switch, self.switch_probability)
        alpha = jnp.where(is_cutmix, self.cutmix_alpha, self.mixup_alpha)
        # One draw for both, because a Beta distribution takes a second to compile.
        share = 1 - jax.random.beta(first, alpha, alpha, dtype=jnp.float32)
        if self.switch_probability == 0:
            shares = _mixup_shares(share, rules)
        elif self.switch_probability == 1:
            shares = _cutmix_shares(second, share, size, rules)
        else:
            cutmix = _cutmix_shares(second, share, size, rules)
            shares = _where(is_cutmix, cutmix, _mixup_shares(share, rules))
        if self.probability == 1:
            return shares
        nothing = Shares(jnp.zeros((1, 1)), jnp.zeros(()))
        return _where(jax.random.bernoulli(applied, self.probability), shares, nothing)


def mix(batch: contracts.Batch, shares: Shares, partner: str, num_classes: int) -> contracts.Batch:
    """Returns a batch with each example mixed with its partner; traceable.

    An example stays as it is if its partner has weight 0: the partner's image is unreadable.

    Args:
      batch: the batch; without `target`, the classes in `label` are mixed.
      shares: the partner's part of pixels and target.
      partner: as `Convention.partner`.
      num_classes: K.
    """
    image = batch["image"]
    target = batch["target"] if "target" in batch else jax.nn.one_hot(batch["label"], num_classes)
    has_partner = _partners(batch["weight"], partner) > 0
    pixels = shares.pixels[:, :, None] * has_partner[:, None, None, None]
    pixels = pixels.astype(image.dtype)
    share = (shares.target * has_partner[:, None]).astype(target.dtype)
    # Two products, so that a share of 0 or 1 returns the pixels of one image without rounding.
    return {
        **batch,
        "image": image * (1 - pixels) + _partners(image, partner) * pixels,
        "target": target * (1 - share) + _partners(target, partner) * share,
    }


def box(
    share: jax.Array, centre: jax.Array, size: tuple[int, int], *, even: bool
) -> tuple[jax.Array, jax.Array]:
    """Returns the box of CutMix, clipped to the image.

    Args:
      share: the part of the image's area that the box has before clipping.
      centre: `[2]` int32, row and column.
      size: height and width of the image in pixels.
      even: as `Convention.even_boxes`.

    Returns:
      The first row and column, `[2]` int32, and the row and column after the last.
    """
    limits = jnp.array(size)
    ratio = jnp.sqrt(share)
    if even:
        before = after = (0.5 * ratio * limits).astype(jnp.int32)
    else:
        sides = (limits * ratio).astype(jnp.int32)
        before, after = sides // 2, (sides + 1) // 2
    return jnp.clip(centre - before, 0, limits), jnp.clip(centre + after, 0, limits)


def box_shares(low: jax.Array, high: jax.Array, size: tuple[int, int]) -> Shares:
    """Returns the shares of a box: pixels 1 inside, 0 outside; target the box's area fraction.

    Args:
      low: the first row and column, `[2]` int32.
      high: the row and column after the last.
      size: height and width of the image in pixels.
    """
    rows, columns = (
        (jnp.arange(side) >= low[axis]) & (jnp.arange(side) < high[axis])
        for axis, side in enumerate(size)
    )
    inside = rows[:, None] & columns[None, :]
    area = jnp.prod(high - low).astype(jnp.float32)
    return Shares(inside.astype(jnp.float32), area / math.prod(size))


def _mixup_shares(share: jax.Array, rules: Convention) -> Shares:
    if rules.at_least_half:
        share = jnp.minimum(share, 1 - share)
    return Shares(share[None, None], share)


def _cutmix_shares(
    key: jax.Array, share: jax.Array, size: tuple[int, int], rules: Convention
) -> Shares:
    """Returns the shares of a clipped box with a random centre; see `box`."""
    centre = jax.random.randint(key, (2,), 0, jnp.array(size))
    return box_shares(*box(share, centre, size, even=rules.even_boxes), size)


def _where(condition: jax.Array, chosen: Shares, others: Shares) -> Shares:
    return Shares(
        jnp.where(condition, chosen.pixels, others.pixels),
        jnp.where(condition, chosen.target, others.target),
    )


def _partners(values: jax.Array, partner: str) -> jax.Array:
    """Permutes values `[B, ...]` so that each example gets the value of its partner."""
    return values[::-1] if partner == "flip" else jnp.roll(values, 1, axis=0)


def _without_cutmix(convention: str) -> str:
    if convention == "big_vision":
        return "convention 'big_vision' has no CutMix; use 'timm', 'torchvision', or 'mixup'"
    return ""
