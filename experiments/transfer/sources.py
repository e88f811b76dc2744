"""Two sets of real pictures from Debian packages, as sources that a config can name.

`tuxpaint` reads the stamps of Tux Paint (tuxpaint-stamps-default), `openclipart` the pictures of
Open Clip Art (openclipart-png). Both return one split, 'train', for `data.split = "stratified"`.
Examples are in the order of a hash of their paths, as in an image folder.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from cnn_jax import errors, plan
from cnn_jax.data.selection import Relabelled, Splits
from cnn_jax.data.sources import folders

TUXPAINT = "/usr/share/tuxpaint/stamps"
OPENCLIPART = "/usr/share/openclipart/png"

MIN_PICTURES = 10
"""The least number of pictures of a class."""

PHOTOGRAPHS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "birds": ("animals/birds/",),
        "coins": ("symbols/money/",),
        "fish": ("animals/fish/",),
        "flowers": ("plants/flowers/",),
        "fruit": ("food/fruit/",),
        "gravestones": ("seasonal/halloween/grave-",),
        "instruments": ("hobbies/music/",),
        "mammals": ("animals/mammals/", "animals/marsupials/"),
        "planets": ("space/moon/", "space/planets/"),
        "tools": ("household/tools/",),
        "vegetables": ("food/vegetables/",),
        "vehicles": ("vehicles/",),
    }
)
"""Classes of photographs of Tux Paint, and the beginnings of their paths."""

DRAWINGS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "chess": ("symbols/chess/",),
        "clothes": ("clothes/",),
        "easter": ("seasonal/easter/",),
        "fruit": ("food/fruit/",),
        "houses": ("town/houses/",),
        "insects": ("animals/insects/",),
        "letters": ("symbols/alphabets/english/filled/",),
        "mathematics": ("symbols/math/",),
        "music": ("symbols/music/",),
        "sign_language": ("symbols/alphabets/asl/",),
        "vehicles": ("vehicles/",),
    }
)
"""Classes of drawings of Tux Paint, and the beginnings of their paths."""

_KINDS = MappingProxyType({"photographs": PHOTOGRAPHS, "drawings": DRAWINGS})
# Drawings that neither a folder 'cartoon' nor an SVG file marks. They were found by looking at all
# stamps of the classes above.
_DRAWN = (
    "animals/mammals/echidna.png",
    "animals/mammals/hedgehog.png",
    "clothes/button.png",
    "clothes/t_",
    "household/tools/wrench_adjustable.png",
    "seasonal/easter/",
    "space/planets/0_sun.png",
    "symbols/alphabets/",
    "symbols/chess/",
    "symbols/math/",
    "symbols/music/",
    "vehicles/7spoke256.png",
)
_MIRRORED = re.compile(r"_(mirror|flip)\.png$")

CLIPART: tuple[str, ...] = (
    *("animals/birds", "animals/bugs", "animals/fish", "animals/mammals"),
    *("buildings/homes", "computer/hardware", "education/books", "food/beverages"),
    *("food/breads_and_carbs", "food/desserts", "food/fruit", "food/meats_and_eggs"),
    *("food/vegetables", "office/telephone", "people/bodypart", "people/clothing"),
    *("people/smilies", "plants/flowers", "plants/trees"),
    *("recreation/music", "recreation/sports", "recreation/toys", "signs_and_symbols/clocks"),
    *("signs_and_symbols/flags", "signs_and_symbols/weather", "tools/weapons"),
    *("transportation/boating", "transportation/roadsigns", "transportation/vehicles"),
)
"""Classes of Open Clip Art: folders of the second level that hold one kind of thing."""

MAX_CLIPART = 40
"""The largest number of pictures of a class of Open Clip Art."""

_MAX_PIXELS = 4_000_000  # of a picture; twenty have up to 623 million, which take long to decode
# The end of a name that numbers the pictures of a series: _01, _02 or _a, _b.
_NUMBER = re.compile(r"([\W_]*\d+|_[a-z]{1,2})*[\W_]*$")


def tuxpaint(data: plan.Data) -> Splits:
    """Returns stamps of Tux Paint: photographs or drawings, by `data.name`.

    A stamp is a drawing if it lies in a folder 'cartoon', if there is an SVG file of the same name,
    or if it is listed above. The other stamps of the classes are photographs, cut out of their
    background. SVG files themselves and mirrored copies are left out.

    Args:
      data: the section of the plan. `data.directory` may be empty for the place of the package.

    Raises:
      UserError: `data.name` is neither, or the stamps are missing or incomplete.
    """
    if data.name not in _KINDS:
        raise errors.unknown("data.name", data.name, _KINDS)
    root = Path(data.directory or TUXPAINT)
    drawings = data.name == "drawings"
    found = defaultdict[str, list[int]](list)
    whole = _pictures(root, "tuxpaint-stamps-default")
    for index in range(len(whole)):
        path = whole.name(index)
        if not _MIRRORED.search(path) and is_drawing(root, path) == drawings:
            for name, beginnings in _KINDS[data.name].items():
                if path.startswith(beginnings):
                    found[name].append(index)
    return _source(whole, found, _KINDS[data.name], root)


def is_drawing(root: Path, path: str) -> bool:
    """Returns True if a stamp is a drawing; see `tuxpaint`.

    Args:
      root: the directory of the stamps.
      path: the path of its PNG file below `root`, with '/'.
    """
    marked = "/cartoon/" in path or (root / path).with_suffix(".svg").exists()
    return marked or path.startswith(_DRAWN)


def openclipart(data: plan.Data) -> Splits:
    """Returns pictures of Open Clip Art, at most `MAX_CLIPART` of each folder of `CLIPART`.

    A file name that is in two of the folders is left out, because the picture has two labels. Of a
    series of one name, such as muffin_01 and muffin_02, one picture is taken: variants of a picture
    would otherwise be in the training and the test set. Pictures of more than 4 million pixels are
    left out.

    Args:
      data: the section of the plan. `data.directory` may be empty for the place of the package.

    Raises:
      UserError: the pictures are missing or incomplete.
    """
    root = Path(data.directory or OPENCLIPART)
    whole = _pictures(root, "openclipart-png")
    paths = [whole.name(index) for index in range(len(whole))]
    kinds = ["/".join(path.split("/")[:2]) for path in paths]
    places = defaultdict[str, set[str]](set)
    for path, kind in zip(paths, kinds, strict=True):
        if kind in CLIPART:
            places[Path(path).name].add(kind)
    found = defaultdict[str, list[int]](list)
    seen = set[tuple[str, str]]()
    for index, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        series = (kind, _NUMBER.sub("", Path(path).stem))
        single = len(places[Path(path).name]) == 1
        if not single or series in seen or len(found[kind]) >= MAX_CLIPART:
            continue
        if _pixels(root / path) <= _MAX_PIXELS:
            seen.add(series)
            found[kind].append(index)
    return _source(whole, found, CLIPART, root)


def _pictures(root: Path, package: str) -> folders.FolderExamples:
    """Returns all pictures below a directory.

    Raises:
      UserError: there is no such directory.
    """
    if not root.is_dir():
        raise errors.UserError(
            f"there are no pictures in {root}; install Debian's package {package} (apt-get install "
            f"{package}), or set data.directory to the directory in which its files are"
        )
    return folders.source(root).splits["train"]


def _pixels(file: Path) -> int:
    """Returns the number of pixels of a PNG file, from its header (W3C PNG, section 11.2.1)."""
    with file.open("rb") as opened:
        header = opened.read(24)
    return int.from_bytes(header[16:20]) * int.from_bytes(header[20:24])


def _source(
    whole: folders.FolderExamples,
    found: Mapping[str, list[int]],
    class_names: Iterable[str],
    root: Path,
) -> Splits:
    """Returns the source of some pictures.

    Args:
      whole: all pictures.
      found: the numbers of the pictures of each class.
      class_names: the classes.
      root: the directory of the pictures, for messages.

    Raises:
      UserError: a class has fewer than `MIN_PICTURES` pictures.
    """
    names = tuple(class_names)
    for name in names:
        if len(found.get(name, ())) < MIN_PICTURES:
            raise errors.UserError(
                f"{root} has {len(found.get(name, ()))} pictures of the class {name!r}, but at "
                f"least {MIN_PICTURES} are needed; install the whole Debian package"
            )
    label_of = {index: label for label, name in enumerate(names) for index in found[name]}
    indices = np.array(sorted(label_of))
    labels = np.array([label_of[index] for index in indices], np.int32)
    return Splits(names, {"train": Relabelled(whole, indices, labels)})
