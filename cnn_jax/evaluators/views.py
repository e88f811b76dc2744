"""Predictions from several views of a picture: ten crops, mirror images, scales, whole pictures.

A description says which views of a stored picture a network sees, and how their predictions are
averaged. `with_views` applies it to a predictor:

    classifier = predictor.load("runs/lenet")  # or published weights
    ten = views.with_views(classifier, views.ten_crops())
    ten("photo.jpg").probabilities  # [K], the mean over ten crops
    ten.top("photo.jpg", 5)

`evaluators.evaluate(classifier, source, "test", views=views.ten_crops())` evaluates a split.
Resize, mean and standard deviation are those of the predictor. Pictures are always resized first,
so a picture that is smaller than a crop is enlarged.
"""

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import errors, limits
from cnn_jax.contracts import Variables
from cnn_jax.data import crops
from cnn_jax.evaluators import view_inputs
from cnn_jax.evaluators.view_inputs import Bound, Parts, Scaling, Views
from cnn_jax.evaluators.viewed import MEANS, Viewed, average, averaged, with_views
from cnn_jax.predictor import Predictor
from cnn_jax.runtime import patterns

__all__ = [
    "EACH",
    "MEANS",
    "NAMES",
    "Bound",
    "Dense",
    "Mirrored",
    "MultiScale",
    "Parts",
    "TenCrops",
    "Viewed",
    "Views",
    "average",
    "averaged",
    "dense",
    "mirrored",
    "multi_scale",
    "ten_crops",
    "with_views",
]

EACH = ("dense", "ten_crops")
"""The views that `MultiScale` takes at each scale."""


@dataclasses.dataclass(frozen=True)
class Mirrored:
    """The input of the predictor and its mirror image.

    Attributes:
      mean: one of `MEANS`.
    """

    mean: str = "probabilities"

    def __post_init__(self) -> None:
        """Raises a UserError for a value that is not allowed."""
        _check_mean(self.mean)

    def bind(self, predictor: Predictor) -> Bound:
        """See `Views`; any preprocessing is allowed."""

        def make(image: np.ndarray) -> Parts:
            return (view_inputs.with_mirrored(predictor.preprocessing(image)),)

        return Bound(2, (2, *predictor.input_shape), make)


@dataclasses.dataclass(frozen=True)
class TenCrops:
    """The four corners and the centre of a picture and of its mirror image.

    Krizhevsky et al. 2012 (doi:10.1145/3065386), section 4.1: crops of 224 pixels from pictures
    whose shorter side has 256. Pixels and order are those of torchvision's `Resize`, `Pad` and
    `TenCrop` of a Pillow picture. A wide crop that does not fit into the resized picture enlarges
    it, as in the predictor's centre crop.

    Attributes:
      shorter_side: to which pictures are resized before the crops, in pixels; 0 for the
        predictor's. A predictor that resizes pictures to squares does so here.
      padding: black pixels around the picture. A predictor that shows the whole picture needs a
        padding or a shorter side. With a padding alone, the crops shift its input.
      mean: one of `MEANS`.
    """

    shorter_side: int = 0
    padding: int = 0
    mean: str = "probabilities"

    def __post_init__(self) -> None:
        """Raises a UserError for a value that is not allowed."""
        _check_pixels("shorter_side", self.shorter_side, 0)
        _check_pixels("padding", self.padding, 0)
        _check_mean(self.mean)

    def bind(self, predictor: Predictor) -> Bound:
        """See `Views`."""
        scaling = view_inputs.scaling(predictor)
        size, padding = scaling.size, self.padding
        if padding >= min(size):
            raise errors.UserError(
                f"padding must be below {min(size)}, the shorter side of the input, got {padding}"
            )
        side = self.shorter_side or scaling.shorter_side
        needed = max(size) if scaling.squash else min(size)
        if not side and not padding:
            raise errors.UserError(
                "the predictor shows the whole picture, so all crops would be equal; give "
                f"padding=, such as {max(1, min(size) // 8)}, or shorter_side=, such as "
                f"{round(needed / crops.CROP_SHARE)}"
            )
        if 0 < side < needed:
            raise errors.UserError(
                f"shorter_side must be at least {needed} pixels, for crops of {size[0]}x{size[1]}, "
                f"got {side}"
            )

        def make(image: np.ndarray) -> Parts:
            if not side:
                shown = predictor.preprocessing(image)
                shown = view_inputs.padded(shown, padding, scaling.black)
                return (view_inputs.ten_crops(shown, size),)
            shown = scaling.for_crops(image, side)
            shown = view_inputs.padded(shown, padding, np.zeros(shown.shape[-1]))
            return (scaling.normalise(view_inputs.ten_crops(shown, size)),)

        return Bound(10, (10, *predictor.input_shape), make)


@dataclasses.dataclass(frozen=True)
class Dense:
    """The whole picture at one scale, and its mirror image, for networks with global pooling.

    Simonyan & Zisserman 2014 (arXiv:1409.1556), section 3.2: the network is applied convolutionally
    to the whole picture, and its class scores are averaged over positions. With global average
    pooling and a dense layer, the logits of the larger input are this average. A head that is not
    linear after the pooling (ConvNeXt, MobileNet v3) gets the average of the features instead.
    Networks whose parameters depend on the size of the input are refused: of `models`, LeNet,
    fashion_cnn, cuda-convnet, AlexNet, VGG, ViT and the linear ones. All others are accepted, and
    so are networks of the user that pool globally.

    Attributes:
      shorter_side: of the resized picture in pixels; 0 for the predictor's or, if it shows the
        whole picture, for that of its input.
      mirrored: whether the mirror image is a second view.
      step: the longer side is cut, at both ends, to the shorter side plus a multiple of `step`
        pixels, because the network is compiled for each size of its input; 1 for the whole picture.
      mean: one of `MEANS`, over the picture and its mirror image.
    """

    shorter_side: int = 0
    mirrored: bool = True
    step: int = 32
    mean: str = "probabilities"

    def __post_init__(self) -> None:
        """Raises a UserError for a value that is not allowed."""
        _check_pixels("shorter_side", self.shorter_side, 0)
        _check_pixels("step", self.step, 1)
        _check_mean(self.mean)

    def bind(self, predictor: Predictor) -> Bound:
        """See `Views`."""
        scaling = view_inputs.scaling(predictor)
        side = self.shorter_side or scaling.shorter_side or min(scaling.size)
        _check_dense(predictor, [(side, side if scaling.squash else side + self.step)])

        def make(image: np.ndarray) -> Parts:
            return (self.inputs(image, scaling, side),)

        return Bound(2 if self.mirrored else 1, None, make)

    def inputs(self, image: np.ndarray, scaling: Scaling, side: int) -> np.ndarray:
        """Returns the inputs `[V, H, W, C]` float32 of a picture `[h, w, C]`.

        Args:
          image: the picture, uint8 or float32 in [0, 1].
          scaling: of the predictor.
          side: the shorter side of the inputs in pixels.

        Raises:
          UserError: the inputs would have more than `limits.MAX_INPUT_VALUES` values.
        """
        shown = scaling.whole(image, side, self.step)
        if shown.size > limits.MAX_INPUT_VALUES:
            raise errors.UserError(
                f"the picture has {shown.shape[0]:,} x {shown.shape[1]:,} pixels (height x width) "
                "after the resize, more than the limit MAX_INPUT_VALUES of cnn_jax/limits.py "
                "allows; crop it, or take a smaller shorter_side"
            )
        inputs = scaling.normalise(shown)
        return view_inputs.with_mirrored(inputs) if self.mirrored else inputs[np.newaxis]


@dataclasses.dataclass(frozen=True)
class MultiScale:
    """The views of several scales.

    He et al. 2015 (arXiv:1512.03385), section 3.4: the whole picture, with shorter sides of 224,
    256, 384, 480 and 640 pixels.

    Attributes:
      shorter_sides: of the scales, in pixels.
      each: the views at each scale: 'dense' for the whole picture and its mirror image, or
        'ten_crops' for crops of the size of the predictor's input.
      step: see `Dense`.
      mean: one of `MEANS`, over all views of all scales.
    """

    shorter_sides: Sequence[int] = (224, 256, 384, 480, 640)
    each: str = "dense"
    step: int = 32
    mean: str = "probabilities"

    def __post_init__(self) -> None:
        """Raises a UserError for a value that is not allowed."""
        if not self.shorter_sides:
            raise errors.UserError("shorter_sides must name at least one scale in pixels, got none")
        for side in self.shorter_sides:
            _check_pixels("shorter_sides", side, 1)
        _check_pixels("step", self.step, 1)
        if self.each not in EACH:
            raise errors.unknown("each", self.each, EACH)
        _check_mean(self.mean)

    def bind(self, predictor: Predictor) -> Bound:
        """See `Views`."""
        if self.each == "ten_crops":
            return self._crops(predictor)
        scaling = view_inputs.scaling(predictor)
        step = 0 if scaling.squash else self.step
        _check_dense(predictor, [(side, side + step) for side in self.shorter_sides])
        whole = Dense(step=self.step)

        def make(image: np.ndarray) -> Parts:
            return tuple(whole.inputs(image, scaling, side) for side in self.shorter_sides)

        return Bound(2 * len(self.shorter_sides), None, make)

    def _crops(self, predictor: Predictor) -> Bound:
        """Returns the crops of all scales, which have one size."""
        scales = [TenCrops(side).bind(predictor) for side in self.shorter_sides]
        count = sum(scale.count for scale in scales)

        def make(image: np.ndarray) -> Parts:
            return (np.concatenate([part for scale in scales for part in scale.make(image)]),)

        return Bound(count, (count, *predictor.input_shape), make)


mirrored = Mirrored
ten_crops = TenCrops
dense = Dense
multi_scale = MultiScale
NAMES: Mapping[str, Callable[[], Views]] = types.MappingProxyType(
    {"mirrored": Mirrored, "ten_crops": TenCrops, "dense": Dense, "multi_scale": MultiScale}
)
"""The descriptions by name, for flags: `NAMES[name]()` has the usual values."""


def _check_pixels(name: str, value: Any, least: int) -> None:
    most = limits.MAX_RESIZE_SIDE
    is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        raise errors.UserError(
            f"{name} must be a number of pixels from {least} to {most:,}, got {value!r:.99}"
        )


def _check_mean(mean: str) -> None:
    if mean not in MEANS:
        raise errors.unknown("mean", mean, MEANS)


def _check_dense(predictor: Predictor, sizes: Iterable[tuple[int, int]]) -> None:
    """Checks that a network can be applied to whole pictures; traces it, and computes nothing.

    Args:
      predictor: with the network.
      sizes: heights and widths of inputs in pixels.

    Raises:
      UserError: a parameter depends on the size of the input, or the network cannot take a size.
    """
    if reason := _size_dependence(predictor):
        raise _not_dense(reason)
    channels = predictor.input_shape[-1]
    for height, width in sizes:
        images = jax.ShapeDtypeStruct((1, height, width, channels), jnp.float32)
        try:
            logits = jax.eval_shape(_logits_of(predictor), predictor.variables, images)
        except Exception as error:
            raise _not_dense(f"it cannot take {height}x{width} pixels: {error}") from error
        if logits.shape != (1, len(predictor.class_names)):
            raise _not_dense(f"for {height}x{width} pixels its logits are {[*logits.shape]}")


def _not_dense(reason: str) -> errors.UserError:
    return errors.UserError(
        "dense views need a network that ends in global pooling and a dense layer, and takes "
        f"inputs of any size; of this one, {reason}; take views.ten_crops()"
    )


def _logits_of(predictor: Predictor) -> Callable[[Variables, Any], jax.Array]:
    return lambda variables, images: predictor.predict(variables, {"image": images})["logits"]


def _size_dependence(predictor: Predictor) -> str:
    """Returns text on a parameter whose shape depends on the size of the input; empty without one.

    VGG and AlexNet need this, because they take any size: they pool to the size that their first
    dense layer was made for. Parameters of auxiliary heads, which evaluation does not use, may
    depend on the size. A predictor without a module is not examined.

    Raises:
      UserError: the network cannot be built for larger inputs.
    """
    if predictor.model is None:
        return ""
    height, width, channels = predictor.input_shape
    larger = jax.ShapeDtypeStruct((1, 2 * height, 3 * width, channels), jnp.float32)

    def init(images: jax.Array) -> Any:
        return predictor.model.init(jax.random.key(0), images, train=False)["params"]

    try:
        made = _shapes(jax.eval_shape(init, larger))
    except Exception as error:
        raise _not_dense(f"it cannot be built for larger inputs: {error}") from error
    own = _shapes(predictor.variables["params"])
    differing = [path for path in own if own[path] != made.get(path)]
    used = _used(predictor) if differing else set()
    for path in differing:
        if path in used:
            return f"the parameters {path} depend on the size: they are {[*own[path]]}"
    return ""


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(params)
    return {patterns.path(keys): jnp.shape(leaf) for keys, leaf in leaves}


def _used(predictor: Predictor) -> set[str]:
    """Returns the paths of the parameters that the network reads in evaluation mode."""
    rest = {name: tree for name, tree in predictor.variables.items() if name != "params"}
    images = jax.ShapeDtypeStruct((1, *predictor.input_shape), jnp.float32)
    traced = jax.make_jaxpr(
        lambda params, images: _logits_of(predictor)({**rest, "params": params}, images)
    )(predictor.variables["params"], images)
    read = {id(variable) for line in traced.eqns for variable in line.invars}
    paths = patterns.paths(predictor.variables["params"])
    # The arguments of the traced function are the parameters in the order of the tree, then images.
    return {
        path
        for path, variable in zip(paths, traced.jaxpr.invars, strict=False)
        if id(variable) in read
    }
