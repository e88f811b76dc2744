"""The jobs of the command: each computes, draws a picture and returns lines of text."""

import dataclasses
from pathlib import Path

import numpy as np

from cnn_jax import errors
from cnn_jax.inspect import attributions, checking, flow, plots, receptive, subsets, values
from cnn_jax.inspect import cam as cams
from cnn_jax.inspect import filters as kernels
from cnn_jax.inspect import rates as finder
from cnn_jax.inspect import surface as surfaces
from cnn_jax.plan import Plan
from cnn_jax.predictor import Predictor

_NOISE_IMAGES = 4  # for a receptive field without images


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of the jobs; each reads some of them. See the help of the command.

    Attributes:
      images: the image files.
      stage: the stage; None for the job's default.
      target: the classes; None for the most probable one.
      channels: the number of feature maps that are drawn.
      steps: the number of steps; 0 for the job's default.
      window: the side of the occluded square in pixels; 0 for an eighth of the input.
      stride: the distance of the squares in pixels; 0 for half the window.
      points: points along each direction of the loss surface.
      radius: the largest change of a filter on the loss surface, in multiples of its norm.
      shares: percentages of the training set.
      seed: the seed of noise and directions.
    """

    images: tuple[Path, ...] | list[Path] = ()
    stage: str | None = None
    target: list[str] | None = None
    channels: int = 23
    steps: int = 0
    window: int = 0
    stride: int = 0
    points: int = 21
    radius: float = 1.0
    shares: tuple[int, ...] = subsets.SHARES
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """The names of the images."""
        return [Path(path).name for path in self.images]

    @property
    def targets(self) -> str | list[str] | None:
        """One class for all images, or one for each."""
        if self.target is not None and len(self.target) == 1:
            return self.target[0]
        return self.target


def filters(network: Predictor, options: Options, out: Path) -> str:
    """Draws the kernels of the first layer."""
    del options
    layer, found = kernels.first_layer(network)
    plots.filters(out, layer, found)
    return f"{layer}: {len(found)} kernels of the shape {list(found.shape[1:])}"


def maps(network: Predictor, options: Options, out: Path) -> str:
    """Draws the strongest feature maps of an image.

    Raises:
      UserError: there is more than one image, or `channels` is less than 1.
    """
    if len(options.images) != 1 or options.channels < 1:
        raise errors.UserError(
            f"maps draws one image and at least one channel, got {len(options.images)} images and "
            f"--channels={options.channels}"
        )
    inputs = network.preprocess(options.images)
    stage = options.stage or cams.default_stage(network, inputs)
    (found,) = kernels.feature_maps(network, inputs, stage)
    chosen = kernels.strongest(found, options.channels).tolist()
    plots.maps(out, stage, network.undo(inputs)[0], found, chosen)
    return f"{stage}: {found.shape[-1]} maps of {found.shape[0]} x {found.shape[1]}"


def cam(network: Predictor, options: Options, out: Path) -> str:
    """Draws Grad-CAM over each image."""
    inputs = network.preprocess(options.images)
    found = cams.grad_cam(network, inputs, options.targets, options.stage)
    names = [network.class_names[index] for index in found.targets]
    plots.cams(out, network.undo(inputs), found, names, options.names)
    lines = [
        f"{name}: {label}, strongest at row {row}, column {column} of {maps.shape[0]} x "
        f"{maps.shape[1]}"
        for name, label, maps in zip(options.names, names, found.raw, strict=True)
        for row, column in [np.unravel_index(maps.argmax(), maps.shape)]
    ]
    return "\n".join([f"stage {found.stage}", *lines])


def gradients(network: Predictor, options: Options, out: Path) -> str:
    """Draws the integrated gradients of each image, added over its channels."""
    inputs = network.preprocess(options.images)
    steps = options.steps or 50
    found = attributions.integrated_gradients(network, inputs, options.targets, steps=steps)
    names = [network.class_names[index] for index in found.targets]
    sums = found.values.sum(-1)
    heading = f"integrated gradients, {steps} steps"
    plots.signed(out, network.undo(inputs), sums, names, options.names, heading)
    return "\n".join(
        f"{name}: {label}, logit {difference:+.4g} against the mean colour, error {error:+.2g}"
        for name, label, difference, error in zip(
            options.names, names, found.differences, found.errors, strict=True
        )
    )


def occlusion(network: Predictor, options: Options, out: Path) -> str:
    """Draws the drop of the logit behind a square."""
    inputs = network.preprocess(options.images)
    window = options.window or max(min(inputs.shape[1:3]) // 8, 1)
    stride = options.stride or max(window // 2, 1)
    found = attributions.occlusion(network, inputs, options.targets, window=window, stride=stride)
    names = [network.class_names[index] for index in found.targets]
    heading = f"drop of the logit behind {window} x {window} pixels"
    plots.signed(out, network.undo(inputs), found.maps, names, options.names, heading)
    return "\n".join(
        f"{name}: {label}, largest drop {drops.max():.4g}"
        for name, label, drops in zip(options.names, names, found.drops, strict=True)
    )


def norms(network: Predictor, options: Options, out: Path) -> str:
    """Draws and lists the norms of activations and gradients, and those of the parameters."""
    inputs = network.preprocess(options.images)
    rows = flow.stages(network, inputs, options.targets)
    plots.flow(out, rows)
    parameters = flow.parameters(network, inputs, options.targets)
    return f"{flow.table(rows)}\n\n{flow.table(parameters)}"


def relus(network: Predictor, options: Options, out: Path) -> str:
    """Draws and lists the dead units of each ReLU."""
    rows = flow.dead_relus(network, network.preprocess(options.images))
    plots.relus(out, rows)
    lines = [
        f"{row.layer}: {row.dead} of {len(row.active)} units are 0, {row.active.mean():.1%} of "
        "values are above 0"
        for row in rows
    ]
    return "\n".join(lines)


def field(network: Predictor, options: Options, out: Path) -> str:
    """Draws the effective receptive field of a stage."""
    if options.images:
        inputs = network.preprocess(options.images)
    else:
        shape = (_NOISE_IMAGES, *network.input_shape)
        inputs = np.random.default_rng(options.seed).normal(size=shape).astype(np.float32)
    stage = options.stage or _last_maps(network, inputs)
    found = receptive.receptive_field(network, inputs, stage)
    plots.field(out, found)
    height, width = found.extent
    return (
        f"{stage}: effective receptive field {found.size:.1f} pixels, box of all pixels with a "
        f"gradient {height} x {width}"
    )


def _last_maps(network: Predictor, inputs: np.ndarray) -> str:
    """Returns the last endpoint with height and width.

    Raises:
      UserError: there is none.
    """
    traced = values.trace_predictor(network, inputs[:1])
    sizes = values.map_sizes(traced, inputs[:1].shape)
    found = [name for name in traced.endpoints if name in sizes]
    if not found:
        raise errors.UserError(
            "the network records no endpoint with height and width; give --stage"
        )
    return found[-1]


def surface(network: Predictor, options: Options, out: Path) -> str:
    """Draws the loss surface of the images."""
    inputs = network.preprocess(options.images)
    found = surfaces.of_network(
        network,
        inputs,
        options.targets,
        radius=options.radius,
        points=options.points,
        seed=options.seed,
    )
    plots.surface(out, found)
    finite = found.losses[np.isfinite(found.losses)]
    return f"loss from {finite.min():.4g} to {finite.max():.4g} on {len(found.steps)}^2 points"


def check(network: Predictor, options: Options, out: Path) -> str:
    """Draws the errors of the gradient, and lists the wrong ones."""
    rows = checking.of_network(network, seed=options.seed)
    plots.checks(out, rows)
    wrong = [row for row in rows if row.error > checking.TOLERANCE]
    lines = [
        f"{row.path}: derivative {row.derivative:.6g}, difference {row.difference:.6g}, relative "
        f"error {row.error:.2g}"
        for row in wrong
    ]
    head = f"{len(rows) - len(wrong)} of {len(rows)} arrays have a right gradient"
    return "\n".join([head, *lines])


def rates(settings: Plan, options: Options, out: Path) -> str:
    """Draws the losses of the learning-rate finder."""
    found = finder.find(settings, steps=options.steps or 100)
    plots.rates(out, found)
    return f"suggested learning rate: {found.suggested:.2g} (valley, {len(found.rates)} steps)"


def curve(settings: Plan, options: Options, out: Path) -> str:
    """Draws the errors over the size of the training set."""
    rows = subsets.learning_curve(settings, options.shares, tell=print)
    plots.learning_curve(out, rows)
    return "\n".join(
        f"{row.examples:,} examples: top-1 error {row.training:.2%} in training, "
        f"{row.held_out:.2%} held out"
        for row in rows
    )
