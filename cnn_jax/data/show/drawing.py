"""Drawing of training images as one picture, by Pillow."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cnn_jax.data import images
from cnn_jax.data.show.shown import Row

_LEAST = 112  # pixels of a cell, to which small images are enlarged
_MARGIN = 4  # pixels between cells
_LINE = 12  # pixels of a line of text
_LINES = 2  # of text below a cell
_DIGITS = 2  # of the share of a class


def draw(rows: Sequence[Row]) -> Image.Image:
    """Returns one picture with a line per row: the original image, then its versions.

    Small versions are enlarged by an integer factor, without smoothing. Originals are scaled to
    fit into a cell and keep their aspect ratio. Images with 1 or 2 channels are drawn in grey, from
    the first channel. Of images with 3 or more channels, the first three are drawn as RGB.

    Args:
      rows: at least one row. All rows have the same number of versions, all of one shape.
    """
    height, width = rows[0].versions[0].image.shape[:2]
    factor = max(-(-_LEAST // max(height, width)), 1)
    cell = height * factor, width * factor
    step = cell[0] + _LINES * _LINE + _MARGIN, cell[1] + _MARGIN
    columns = 1 + len(rows[0].versions)
    size = _MARGIN + columns * step[1], _MARGIN + len(rows) * step[0]
    sheet = Image.new("RGB", size, "white")
    for number, row in enumerate(rows):
        top = _MARGIN + number * step[0]
        parts = [(_thumbnail(row.original, cell), [row.class_name])]
        for version in row.versions:
            enlarged = _picture(version.image).resize(cell[::-1], Image.Resampling.NEAREST)
            shares = sorted(version.mixture.items(), key=lambda pair: -pair[1])
            parts.append((enlarged, [f"{share:.{_DIGITS}f} {name}" for name, share in shares]))
        for column, (picture, lines) in enumerate(parts):
            left = _MARGIN + column * step[1]
            sheet.paste(picture, (left, top))
            _write(sheet, (left, top + cell[0]), cell[1], lines)
    return sheet


def _thumbnail(image: np.ndarray, cell: tuple[int, int]) -> Image.Image:
    """Returns an image scaled to fit into a cell, in its upper left corner on light grey."""
    sheet = Image.new("RGB", cell[::-1], "lightgrey")
    if image.dtype != np.uint8:
        image = np.rint(image * 255).astype(np.uint8)
    factor = min(cell[0] / image.shape[0], cell[1] / image.shape[1])
    size = max(round(image.shape[0] * factor), 1), max(round(image.shape[1] * factor), 1)
    if factor >= 1:
        sheet.paste(_picture(image).resize(size[::-1], Image.Resampling.NEAREST))
    else:
        sheet.paste(_picture(images.stretch(image, size, "bilinear")))
    return sheet


def _picture(image: np.ndarray) -> Image.Image:
    """Returns an image `[h, w, C]` uint8 as an RGB image of Pillow."""
    drawn = image[..., :3] if image.shape[-1] >= 3 else np.repeat(image[..., :1], 3, -1)
    return Image.fromarray(np.ascontiguousarray(drawn))


def _write(sheet: Image.Image, place: tuple[int, int], width: int, lines: Sequence[str]) -> None:
    """Writes the first `_LINES` lines onto `sheet` at `place`, each cut to `width` pixels."""
    font, pen = ImageFont.load_default(), ImageDraw.Draw(sheet)
    for number, line in enumerate(lines[:_LINES]):
        text = line.encode("latin-1", "replace").decode("latin-1")  # All letters of the font.
        while text and pen.textlength(text, font) > width:
            text = text[:-1]
        pen.text((place[0], place[1] + number * _LINE), text, "black", font)
