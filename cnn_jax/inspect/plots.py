"""Pictures of what the room finds. Imports matplotlib, through `runs.plots`.

A picture that cannot be drawn or written is a UserError.
"""

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np

from cnn_jax.inspect.cam import GradCam
from cnn_jax.inspect.checking import TOLERANCE, Checked
from cnn_jax.inspect.flow import Flow, ReluUnits
from cnn_jax.inspect.rates import Rates
from cnn_jax.inspect.receptive import ReceptiveField
from cnn_jax.inspect.subsets import Trained
from cnn_jax.inspect.surface import Surface
from cnn_jax.runs import plots

_OPACITY = 0.5  # of a heat map over an image
_QUANTILE = 0.99  # of absolute attributions; larger ones have the colour of this one
_LONGEST = 60  # letters of a title

_P = ParamSpec("_P")


def _drawing(
    draw: Callable[Concatenate[Path, _P], None],
) -> Callable[Concatenate[Path, _P], None]:
    """Turns the errors of matplotlib into a UserError that names the file."""

    @functools.wraps(draw)
    def drawn(path: Path, /, *args: _P.args, **kwargs: _P.kwargs) -> None:
        with plots.as_user_errors(path):
            draw(path, *args, **kwargs)

    return drawn


def _panels(count: int, columns: int, size: float = 2.4) -> tuple[Any, list[Any]]:
    """Returns a figure and `count` axes without ticks, in rows of `columns`."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = plots.new_figure(size * columns, (size + 0.3) * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for one in axes:
        one.axis("off")
    return figure, list(axes[:count])


def _title(axes: Any, text: str) -> None:
    axes.set_title(plots.drawable(text, text, _LONGEST), fontsize=8, parse_math=False)


def _show(axes: Any, pixels: np.ndarray) -> None:
    """Draws an image `[h, w, C]`, in grey if it has one channel."""
    grey = pixels.shape[-1] == 1
    axes.imshow(pixels[..., 0] if grey else pixels[..., :3], cmap="gray" if grey else None)


@_drawing
def filters(path: Path, layer: str, kernels: np.ndarray, most: int = 100) -> None:
    """Draws kernels `[D, h, w, C]`; 0 is grey, and each kernel is scaled by its largest value.

    Kernels of other than one or three channels are drawn as their mean over the channels.

    Args:
      path: the PNG file.
      layer: the name of the layer.
      kernels: one kernel for each output.
      most: the largest number of kernels that are drawn.
    """
    shown = kernels[:most]
    if shown.shape[-1] not in (1, 3):
        shown = shown.mean(-1, keepdims=True)
    largest = np.abs(shown).max((1, 2, 3), keepdims=True)
    shown = 0.5 + 0.5 * shown / np.maximum(largest, np.finfo(shown.dtype).tiny)
    figure, axes = _panels(len(shown), 8, 1.0)
    for one, kernel in zip(axes, shown, strict=True):
        if kernel.shape[-1] == 1:
            one.imshow(kernel[..., 0], cmap="gray", vmin=0, vmax=1)
        else:
            one.imshow(kernel)
    count = len(kernels)
    _heading(figure, f"{layer}: {len(shown)} of {count} kernels, {list(kernels.shape[1:])}")
    plots.save(figure, path)


def _heading(figure: Any, text: str) -> None:
    figure.suptitle(plots.drawable(text, text, 2 * _LONGEST), fontsize=9, parse_math=False)


@_drawing
def maps(
    path: Path, stage: str, pixels: np.ndarray, found: np.ndarray, channels: Sequence[int]
) -> None:
    """Draws an image and some channels of its feature maps.

    Args:
      path: the PNG file.
      stage: the name of the stage.
      pixels: the image, `[H, W, C]` uint8.
      found: `[h, w, D]`.
      channels: the indices of the channels to draw.
    """
    figure, axes = _panels(1 + len(channels), 6, 1.6)
    _show(axes[0], pixels)
    _title(axes[0], "input")
    for one, channel in zip(axes[1:], channels, strict=True):
        one.imshow(found[..., channel], cmap="viridis")
        _title(one, f"channel {channel}")
    _heading(figure, f"{stage}: {len(channels)} of {found.shape[-1]} feature maps")
    plots.save(figure, path)


@_drawing
def cams(
    path: Path, pixels: np.ndarray, found: GradCam, titles: Sequence[str], names: Sequence[str]
) -> None:
    """Draws each image beside Grad-CAM over it.

    Args:
      path: the PNG file.
      pixels: the images, `[N, H, W, C]` uint8.
      found: Grad-CAM of them.
      titles: the name of the class of each map.
      names: the name of each image.
    """
    figure, axes = _panels(2 * len(pixels), 4)
    for index, image in enumerate(pixels):
        _show(axes[2 * index], image)
        _title(axes[2 * index], names[index])
        _show(axes[2 * index + 1], image)
        axes[2 * index + 1].imshow(found.maps[index], cmap="jet", alpha=_OPACITY, vmin=0, vmax=1)
        _title(axes[2 * index + 1], titles[index])
    _heading(figure, f"Grad-CAM at {found.stage}")
    plots.save(figure, path)


@_drawing
def signed(
    path: Path,
    pixels: np.ndarray,
    found: np.ndarray,
    titles: Sequence[str],
    names: Sequence[str],
    heading: str,
) -> None:
    """Draws each image beside a map: red where it raises the logit, blue where it lowers it.

    Args:
      path: the PNG file.
      pixels: the images, `[N, H, W, C]` uint8.
      found: `[N, H, W]`.
      titles: the name of the class of each map.
      names: the name of each image.
      heading: the method.
    """
    figure, axes = _panels(2 * len(pixels), 4)
    for index, image in enumerate(pixels):
        _show(axes[2 * index], image)
        _title(axes[2 * index], names[index])
        limit = float(np.quantile(np.abs(found[index]), _QUANTILE)) or 1.0
        axes[2 * index + 1].imshow(found[index], cmap="seismic", vmin=-limit, vmax=limit)
        _title(axes[2 * index + 1], titles[index])
    _heading(figure, heading)
    plots.save(figure, path)


@_drawing
def flow(path: Path, rows: Sequence[Flow]) -> None:
    """Draws the norms of activations and gradients over the stages."""
    figure = plots.new_figure(4 + 0.25 * len(rows), 4)
    axes = figure.subplots()
    places = range(len(rows))
    for name in ("activation", "gradient"):
        points = [getattr(row, name) or np.nan for row in rows]
        axes.plot(places, points, marker=".", label=f"{name}, root of the mean square")
    axes.set_yscale("log")
    axes.set_xticks(places, [row.stage for row in rows], rotation=90, fontsize=7)
    axes.grid(alpha=0.3)
    axes.legend()
    plots.save(figure, path)


@_drawing
def relus(path: Path, rows: Sequence[ReluUnits]) -> None:
    """Draws the share of dead units, and the mean share of active ones, of each ReLU."""
    figure = plots.new_figure(4 + 0.25 * len(rows), 4)
    axes = figure.subplots()
    places = np.arange(len(rows))
    axes.bar(places - 0.2, [row.dead / len(row.active) for row in rows], 0.4, label="dead units")
    axes.bar(places + 0.2, [row.active.mean() for row in rows], 0.4, label="values above 0")
    axes.set_xticks(places, [row.layer for row in rows], rotation=90, fontsize=7)
    axes.set(ylim=(0, 1), ylabel="share")
    axes.legend()
    plots.save(figure, path)


@_drawing
def field(path: Path, found: ReceptiveField) -> None:
    """Draws a receptive field, and its profile through the centre."""
    figure = plots.new_figure(9, 4)
    image, profile = figure.subplots(1, 2)
    figure.colorbar(image.imshow(found.map, cmap="magma"), ax=image)
    row, column = np.unravel_index(found.map.argmax(), found.map.shape)
    profile.plot(found.map[row], label=f"row {row}")
    profile.plot(found.map[:, column], label=f"column {column}")
    profile.set(xlabel="pixel", ylabel="mean absolute gradient")
    profile.legend()
    height, width = found.extent
    _heading(
        figure,
        f"{found.stage}: effective receptive field {found.size:.0f} pixels, box of all pixels "
        f"with a gradient {height} x {width}",
    )
    plots.save(figure, path)


@_drawing
def surface(path: Path, found: Surface) -> None:
    """Draws the contours of a loss surface."""
    figure = plots.new_figure(6, 5)
    axes = figure.subplots()
    losses = np.where(np.isfinite(found.losses), found.losses, np.nan)
    filled = axes.contourf(found.steps, found.steps, losses.T, levels=30, cmap="viridis")
    axes.contour(found.steps, found.steps, losses.T, levels=15, colors="white", linewidths=0.4)
    axes.plot(0, 0, "r+")
    figure.colorbar(filled, ax=axes, label="loss [nats]")
    axes.set(xlabel="first direction", ylabel="second direction", aspect="equal")
    plots.save(figure, path)


@_drawing
def rates(path: Path, found: Rates) -> None:
    """Draws the losses over the learning rate, and the suggested rate."""
    figure = plots.new_figure(6, 4)
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, alpha=0.3, label="loss of the batch")
    axes.plot(found.rates, found.smoothed, label="smoothed")
    axes.axvline(
        found.suggested, color="C3", linestyle="--", label=f"valley: {found.suggested:.2g}"
    )
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss [nats]")
    lowest, start = float(found.losses.min()), float(found.smoothed[0])
    axes.set_ylim(lowest - 0.1 * (start - lowest) - 1e-3, start + 0.5 * (start - lowest) + 1e-3)
    axes.grid(alpha=0.3)
    axes.legend()
    plots.save(figure, path)


@_drawing
def learning_curve(path: Path, rows: Sequence[Trained]) -> None:
    """Draws the errors over the number of training examples."""
    figure = plots.new_figure(6, 4)
    axes = figure.subplots()
    sizes = [row.examples for row in rows]
    axes.plot(sizes, [row.training for row in rows], marker=".", label="training")
    axes.plot(sizes, [row.held_out for row in rows], marker=".", label="held out")
    axes.set(xscale="log", xlabel="training examples", ylabel="top-1 error")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    plots.save(figure, path)


@_drawing
def checks(path: Path, rows: Sequence[Checked]) -> None:
    """Draws the relative error of the gradient of each array."""
    figure = plots.new_figure(4 + 0.15 * len(rows), 4)
    axes = figure.subplots()
    places = range(len(rows))
    axes.semilogy(places, [max(row.error, 1e-16) for row in rows], ".")
    axes.axhline(TOLERANCE, color="C3", linestyle="--", label=f"tolerance {TOLERANCE:g}")
    axes.set_xticks(places, [row.path for row in rows], rotation=90, fontsize=5)
    axes.set_ylabel("relative error of the derivative")
    axes.grid(alpha=0.3)
    axes.legend()
    plots.save(figure, path)
