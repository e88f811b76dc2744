"""Writes `augmentations/torchvision.npz` and `augmentations/pillow.npz`: images after operations.

    python -m tests.golden.make_augmentations

Needs torch, torchvision, timm and Pillow. Each file holds the images, the parameters of each image
and the results, by the names that `tests/data/test_augment_golden.py` reads, and the versions.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps

DIRECTORY = Path(__file__).parent / "augmentations"
HEIGHT, WIDTH = 25, 32
# Float32 numbers, as the package draws them.
FACTORS = tuple(map(float, np.array((0.3, 1.4, 1.9, 0.05), np.float32)))
SHIFTS = tuple(map(float, np.array((-0.5, 0.2, -0.07, 0.41), np.float32)))
ANGLES = (17.0, -30.3, 135.2, 88.7)
TRANSLATIONS = ((3, -2), (0, 0), (-5, 7), (1, 4))
SCALES = (1.0, 0.7, 1.6, 1.2)
SHEARS = ((0.0, 0.0), (15.0, -10.0), (-7.0, 20.0), (5.0, 0.0))
BITS, THRESHOLDS, AMOUNTS = (1, 4, 7, 8), (0, 100, 255, 256), (11, 110, 0, 200)
SIGMAS = (0.1, 0.8, 2.0, 1.3)
BOXES = ((0, 0, 25, 32), (3, 5, 10, 20), (24, 31, 1, 1), (7, 0, 18, 3))
ORDERS = ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1), (1, 0, 3, 2))
FILL = (124, 116, 104)
COEFFICIENTS = (
    (1.0, 0.2937, 0.0, 0.0, 1.0, 0.0),
    (1.0, 0.0, 0.0, -0.2719, 1.0, 0.0),
    (1.0, 0.0, 4.337, 0.0, 1.0, -2.618),
    (0.8131, 0.1973, 1.5171, -0.1039, 1.0971, 2.2537),
)
SIZES = ((25, 32), (224, 224), (3, 60), (1, 1))


def main() -> None:
    """Writes the files."""
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. Transforms use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    import timm
    import torchvision

    DIRECTORY.mkdir(exist_ok=True)
    versions = f"torchvision {torchvision.__version__}, torch {torch.__version__}"
    save("torchvision", versions, of_torchvision())
    save("pillow", f"Pillow {PIL.__version__}, timm {timm.__version__}", of_pillow())


def save(name: str, versions: str, results: dict[str, np.ndarray]) -> None:
    """Writes a file with the images, their parameters, the results and the versions."""
    arrays: dict[str, Any] = {"source": np.array(versions), **of_images(), **results}
    np.savez_compressed(DIRECTORY / f"{name}.npz", **arrays)


def of_images() -> dict[str, Any]:
    """Returns four images, `[4, 25, 32, 3]` uint8, and the parameters of the operations."""
    parameters = {
        name.lower(): globals()[name]
        for name in (
            *("FACTORS", "SHIFTS", "ANGLES", "TRANSLATIONS", "SCALES", "SHEARS", "BITS"),
            *("THRESHOLDS", "AMOUNTS", "SIGMAS", "BOXES", "ORDERS", "FILL", "COEFFICIENTS"),
        )
    }
    return {"images": images(), **{name: np.array(value) for name, value in parameters.items()}}


def images() -> np.ndarray:
    """Returns a smooth image, noise, a dark image with few values, and one with a flat channel."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    waves = [np.sin(rows / a + columns / b) for a, b in ((4, 6), (7, 3), (5, 9))]
    smooth = np.rint(127.5 + 127 * np.stack(waves, axis=2))
    noise = rng.integers(0, 256, smooth.shape)
    dark = rng.integers(20, 71, smooth.shape)
    flat = np.where(np.arange(3) == 1, 77, noise // 2 + 30)
    return np.stack([smooth, noise, dark, flat]).astype(np.uint8)


def of_torchvision() -> dict[str, np.ndarray]:
    """Returns the results of torchvision's functions of uint8 and float32 tensors."""
    import torch

    found = {}
    for dtype in ("uint8", "float32"):
        tensors = torch.from_numpy(images().transpose(0, 3, 1, 2).copy())
        tensors = tensors if dtype == "uint8" else tensors.to(torch.float32) / 255
        for name, function in _torchvision_cases(dtype).items():
            each = [function(tensor, index) for index, tensor in enumerate(tensors)]
            array = torch.stack(each).numpy().transpose(0, 2, 3, 1)
            found[f"{name}/{dtype}"] = np.ascontiguousarray(array)
    return {**found, **_rectangles()}


def _torchvision_cases(dtype: str) -> dict[str, Callable[[Any, int], Any]]:
    """Returns functions of a tensor and of its number, by name."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import ColorJitter, functional

    fill = list(FILL) if dtype == "uint8" else [value / 255 for value in FILL]

    def jitter(tensor: Any, i: int) -> Any:
        given = {
            "fn_idx": list(ORDERS[i]),
            "brightness_factor": FACTORS[i],
            "contrast_factor": FACTORS[(i + 1) % 4],
            "saturation_factor": FACTORS[(i + 2) % 4],
            "hue_factor": SHIFTS[i],
        }
        return ColorJitter().transform(tensor, given)

    def affine(mode: str, filled: Any, **options: Any) -> Callable[[Any, int], Any]:
        def function(tensor: Any, i: int) -> Any:
            return functional.affine(
                tensor,
                angle=ANGLES[i],
                translate=list(TRANSLATIONS[i]),
                scale=SCALES[i],
                shear=list(SHEARS[i]),
                interpolation=InterpolationMode(mode),
                fill=filled,
                **options,
            )

        return function

    cases: dict[str, Callable[[Any, int], Any]] = {
        "affine_bilinear": affine("bilinear", None),
        "affine_filled": affine("bilinear", fill),
        "brightness": lambda t, i: functional.adjust_brightness(t, FACTORS[i]),
        "contrast": lambda t, i: functional.adjust_contrast(t, FACTORS[i]),
        "saturation": lambda t, i: functional.adjust_saturation(t, FACTORS[i]),
        "hue": lambda t, i: functional.adjust_hue(t, SHIFTS[i]),
        "sharpness": lambda t, i: functional.adjust_sharpness(t, FACTORS[i]),
        "jitter": jitter,
        "blur": lambda t, i: functional.gaussian_blur(t, 7, SIGMAS[i]),
        "resized_crop": lambda t, i: functional.resized_crop(t, *BOXES[i], [HEIGHT, WIDTH]),
    }
    if dtype == "uint8":
        nearest = InterpolationMode("nearest")
        cases |= {
            "affine_nearest": affine("nearest", fill),
            "affine_corner": affine("bilinear", None, center=[0, 0]),
            "rotate": lambda t, i: functional.rotate(t, ANGLES[i], nearest, fill=fill),
            "grey": lambda t, i: functional.rgb_to_grayscale(t, 3),
            "erase": lambda t, i: functional.erase(t, *BOXES[i], t.new_zeros(1)),
            "posterize": lambda t, i: functional.posterize(t, BITS[i]),
            "solarize": lambda t, i: functional.solarize(t, min(THRESHOLDS[i], 255)),
            "invert": lambda t, i: functional.invert(t),
            "autocontrast": lambda t, i: functional.autocontrast(t),
            "equalize": lambda t, i: functional.equalize(t),
        }
    return cases


def _rectangles() -> dict[str, np.ndarray]:
    """Returns the rectangles of RandomErasing and RandomResizedCrop with the numbers drawn."""
    import torch
    from torchvision.transforms import v2

    found: dict[str, list[Any]] = {}
    for height, width in SIZES:
        for seed in range(8):
            shape = torch.zeros(3, height, width, dtype=torch.float32)
            for name, transform in (
                ("erasing", v2.RandomErasing(1.0)),
                ("crop", v2.RandomResizedCrop((height, width))),
            ):
                drawn: list[float] = []
                torch.manual_seed(seed)
                with mock.patch.object(torch.Tensor, "uniform_", _record(drawn)):
                    params = transform.make_params([shape])
                if name == "erasing":
                    box = [params[key] for key in "ijhw"] if params["v"] is not None else [0] * 4
                else:
                    box = [params[key] for key in ("top", "left", "height", "width")]
                padded = np.resize(np.array(drawn), 20)
                row = found.setdefault(name, [])
                row.append([height, width, *box, len(drawn) // 2, *padded])
    return {f"rectangles/{name}": np.array(rows) for name, rows in found.items()}


def _record(kept: list[float]) -> Callable[..., Any]:
    """Returns `Tensor.uniform_`, which also appends what it draws to a list."""
    import torch

    uniform = torch.Tensor.uniform_

    def draw(tensor: Any, *bounds: Any) -> Any:
        drawn = uniform(tensor, *bounds)
        kept.append(drawn.item())
        return drawn

    return draw


def of_pillow() -> dict[str, np.ndarray]:
    """Returns the results of Pillow, and of timm's functions of Pillow images."""
    from timm.data import auto_augment as timm_operations

    size = (WIDTH, HEIGHT)
    modes = {mode.name.lower(): mode for mode in Image.Resampling}

    def transform(mode: str) -> Callable[[Image.Image, int], Image.Image]:
        return lambda image, i: image.transform(
            size, Image.Transform.AFFINE, COEFFICIENTS[i], modes[mode], fillcolor=FILL
        )

    def rotate(mode: str) -> Callable[[Image.Image, int], Image.Image]:
        return lambda image, i: image.rotate(ANGLES[i], modes[mode], fillcolor=FILL)

    cases: dict[str, Callable[[Image.Image, int], Image.Image]] = {
        "brightness": lambda image, i: ImageEnhance.Brightness(image).enhance(FACTORS[i]),
        "contrast": lambda image, i: ImageEnhance.Contrast(image).enhance(FACTORS[i]),
        "saturation": lambda image, i: ImageEnhance.Color(image).enhance(FACTORS[i]),
        "sharpness": lambda image, i: ImageEnhance.Sharpness(image).enhance(FACTORS[i]),
        "posterize": lambda image, i: timm_operations.posterize(image, BITS[i]),
        "solarize": lambda image, i: ImageOps.solarize(image, THRESHOLDS[i]),
        "solarize_add": lambda image, i: timm_operations.solarize_add(image, AMOUNTS[i]),
        "invert": lambda image, i: ImageOps.invert(image),
        "autocontrast": lambda image, i: ImageOps.autocontrast(image),
        "equalize": lambda image, i: ImageOps.equalize(image),
        "grey": lambda image, i: image.convert("L").convert("RGB"),
        **{f"affine_{mode}": transform(mode) for mode in ("nearest", "bilinear", "bicubic")},
        **{f"rotate_{mode}": rotate(mode) for mode in ("nearest", "bilinear", "bicubic")},
    }
    pictures = [Image.fromarray(each) for each in images()]
    return {
        name: np.stack([np.asarray(function(each, i)) for i, each in enumerate(pictures)])
        for name, function in cases.items()
    }


if __name__ == "__main__":
    main()
