"""Contact sheets: examples as the network sees them, beside Grad-CAM of the predicted class."""

import base64
import dataclasses
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from cnn_jax import errors, inspect
from cnn_jax.evaluators.example_rows import ExampleRows
from cnn_jax.report.measured import Network
from cnn_jax.report.page import escape, short

MOST = 24
"""Pictures on a sheet."""

_SIDE = 144  # pixels of the longer side of a picture
_QUALITY = 80  # of JPEG
_OPACITY = 0.5
# Colours of Grad-CAM from 0 to 1: black, purple, orange, pale yellow (CVD-safe, as 'inferno').
_COLOURS = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]])


@dataclasses.dataclass(frozen=True)
class Tile:
    """Picture on a contact sheet.

    Attributes:
      picture: data URI of the picture; empty if it cannot be read.
      overlay: data URI of the picture with Grad-CAM; empty without.
      caption: finished HTML.
    """

    picture: str
    overlay: str
    caption: str

    def html(self) -> str:
        """Returns the tile as a list item."""
        images = "".join(
            f'<img src="{address}" alt="{words}">'
            for address, words in ((self.picture, ""), (self.overlay, "Grad-CAM"))
            if address
        )
        return f"<li><figure>{images}<figcaption>{self.caption}</figcaption></figure></li>"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Contact sheet.

    Attributes:
      tiles: the pictures.
      note: text on Grad-CAM or on missing pictures; may be empty.
    """

    tiles: tuple[Tile, ...]
    note: str = ""

    def html(self, most: int) -> str:
        """Returns the first `most` tiles, and the note."""
        note = f'<p class="note">{escape(self.note)}</p>' if self.note else ""
        return f'{note}<ul class="sheet">{"".join(tile.html() for tile in self.tiles[:most])}</ul>'


def make(
    network: Network | None,
    split: str,
    rows: ExampleRows,
    indices: Sequence[int] | np.ndarray,
    further: Sequence[str] = (),
) -> Sheet:
    """Returns the contact sheet of some examples of a split.

    Args:
      network: the network with its data set; None for captions without pictures.
      split: the split.
      rows: the outcome of each of its examples.
      indices: the examples, in the order of the sheet; at most `MOST` are used.
      further: a text for the caption of each example, or nothing.
    """
    chosen = [int(index) for index in indices[:MOST]]
    words = list(further[:MOST]) or [""] * len(chosen)
    captions = [_caption(rows, index, text) for index, text in zip(chosen, words, strict=True)]
    if network is None:
        tiles = tuple(Tile("", "", caption) for caption in captions)
        return Sheet(tiles, "Pictures are missing; see above.")
    try:
        inputs, readable = _inputs(network, split, rows, chosen)
    except errors.UserError as error:
        return Sheet(tuple(Tile("", "", caption) for caption in captions), str(error))
    pixels = network.predictor.undo(inputs)
    note, maps = "", None
    if len(inputs):
        targets = [int(rows.predicted[chosen[place]]) for place in readable]
        try:
            found = inspect.grad_cam(network.predictor, inputs, targets)
            maps = found.maps
            note = f"On the right: Grad-CAM of the predicted class at {found.stage}."
        except errors.UserError as error:
            note = f"There is no Grad-CAM: {error}."
    pictures = {
        place: (_uri(image), "" if maps is None else _uri(_overlay(image, maps[row])))
        for row, (place, image) in enumerate(zip(readable, pixels, strict=True))
    }
    tiles = tuple(
        Tile(*pictures.get(place, ("", "")), caption) for place, caption in enumerate(captions)
    )
    return Sheet(tiles, note)


def _inputs(
    network: Network, split: str, rows: ExampleRows, chosen: Sequence[int]
) -> tuple[np.ndarray, list[int]]:
    """Returns inputs `[M, H, W, C]` of the readable examples, and their places in `chosen`.

    Raises:
      UserError: the data set has other examples than the evaluation.
    """
    examples = network.examples(split)
    inputs, readable = [], []
    for place, index in enumerate(chosen):
        if index >= len(examples) or examples.name(index) != str(rows.names[index]):
            raise errors.UserError(
                f"the pictures cannot be shown: the data set has no example "
                f"{str(rows.names[index])!r} at its place; evaluate again"
            )
        try:
            picture = examples[index]["image"]
            inputs.append(network.predictor.prepare(picture, str(rows.names[index])))
            readable.append(place)
        except errors.UserError:
            continue
    empty = np.zeros((0, *network.predictor.input_shape), np.float32)
    return (np.stack(inputs) if inputs else empty), readable


def _caption(rows: ExampleRows, index: int, further: str) -> str:
    name = short(rows.names[index], 200)
    label = short(rows.class_names[rows.labels[index]])
    predicted = short(rows.class_names[rows.predicted[index]])
    lines = [
        f"label <b>{escape(label)}</b>",
        f"predicted <b>{escape(predicted)}</b> {rows.confidence[index]:.1%}",
        *([escape(further)] if further else []),
        escape(name),
    ]
    return "<br>".join(lines)


def _overlay(image: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Returns a picture with a map over it, `[H, W, 3]` uint8.

    Args:
      image: `[H, W, C]` uint8.
      maps: `[H, W]` in [0, 1].
    """
    places = np.linspace(0, 1, len(_COLOURS))
    heat = np.stack([np.interp(maps, places, channel) for channel in _COLOURS.T], -1)
    grey = _coloured(image).mean(-1, keepdims=True)
    return np.round((1 - _OPACITY) * grey + _OPACITY * heat).astype(np.uint8)


def _coloured(image: np.ndarray) -> np.ndarray:
    """Returns a picture with three channels: grey is repeated, further channels are left out."""
    return np.repeat(image[..., :1], 3, -1) if image.shape[-1] < 3 else image[..., :3]


def _uri(image: np.ndarray) -> str:
    """Returns a small picture as a data URI: an enlarged PNG up to 32 pixels, else JPEG."""
    picture = Image.fromarray(_coloured(image))
    small = max(picture.size) <= 32
    if small:  # Enlarged, because browsers blur small pictures.
        factor = _SIDE // max(picture.size)
        picture = picture.resize((picture.width * factor, picture.height * factor), 0)
    else:
        picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    if small:
        picture.quantize(64).save(stream, "PNG", optimize=True)
    else:
        picture.save(stream, "JPEG", quality=_QUALITY, optimize=True)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"
