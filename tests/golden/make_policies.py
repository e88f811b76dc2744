"""Writes `policies/*.json`: tables, arguments and images of policies by their authors.

    python -m tests.golden.make_policies torchvision
    python -m tests.golden.make_policies timm
    python -m tests.golden.make_policies tensorflow BIG_VISION ADDONS

'torchvision' and 'timm' need torch and the library. 'tensorflow' needs TensorFlow, a checkout of
google-research/big_vision, whose `pp/autoaugment.py` is that of tensorflow/tpu, and the unpacked
wheel of tensorflow-addons, of which only Python files are used.
"""

import base64
import importlib
import json
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from tests.golden import fill

HEIGHT, WIDTH, CHANNELS = 18, 25, 3
FILL = (124, 116, 104)
SIZE = (224, 160)  # for arguments that depend on the size of the image
LEVELS = tuple(half / 2 for half in range(21))
DIRECTORY = Path(__file__).parent / "policies"
SIGNED = (
    *("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"),
    *("TranslateXRel", "TranslateYRel"),
)
_ENHANCED = (
    *("ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing"),
)


def main() -> None:
    """Writes the file of one library."""
    library, *paths = sys.argv[1:]
    makers: dict[str, Callable[..., dict[str, Any]]] = {
        "torchvision": _torchvision,
        "timm": _timm,
        "tensorflow": _tensorflow,
    }
    found = makers[library](*paths)
    found["script"] = "tests/golden/make_policies.py"
    DIRECTORY.mkdir(exist_ok=True)
    text = json.dumps(found, separators=(",", ":"))
    (DIRECTORY / f"{library}.json").write_text(text + "\n", encoding="utf-8")


def picture() -> np.ndarray:
    """Returns an image `[H, W, C]` uint8: a gradient with noise, of different ranges per channel.

    No channel has all values, so that autocontrast and equalization change it.
    """
    noise = fill.uniform("policies", (HEIGHT, WIDTH, CHANNELS))
    rows = np.linspace(-0.5, 0.5, HEIGHT)[:, None, None]
    columns = np.linspace(-0.4, 0.4, WIDTH)[None, :, None]
    values = 0.3 * noise + rows * columns * 2 + rows * np.array([0.5, -0.2, 0.9])
    return np.round(128 + 100 * values + np.array([12, 0, -20])).clip(0, 255).astype(np.uint8)


def _text(image: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(image, dtype=np.uint8).tobytes()).decode("ascii")


def _plain(values: Any) -> Any:
    """Returns the JSON form of an argument or of nested tuples and lists."""
    if isinstance(values, list | tuple):
        return [_plain(value) for value in values]
    return values.item() if hasattr(values, "item") else values


def _torchvision() -> dict[str, Any]:
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. Transforms use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    import torchvision
    from torchvision.transforms import v2

    policies = {
        name.lower(): v2.AutoAugment(v2.AutoAugmentPolicy[name])._policies
        for name in ("IMAGENET", "CIFAR10", "SVHN")
    }
    spaces = {
        "rand_augment": (v2.RandAugment._AUGMENTATION_SPACE, 31),
        "trivial_augment_wide": (v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31),
        "auto_augment": (v2.AutoAugment._AUGMENTATION_SPACE, 10),
        "augmix": (v2.AugMix._AUGMENTATION_SPACE, 10),
        "augmix_partial": (v2.AugMix._PARTIAL_AUGMENTATION_SPACE, 10),
    }
    return {
        "source": f"torchvision {torchvision.__version__}, torch {torch.__version__}",
        "policies": _plain(policies),
        "spaces": {name: _torchvision_space(*space) for name, space in spaces.items()},
        "images": list(_torchvision_images(v2)),
        "augmix": list(_torchvision_augmix(v2)),
    }


def _torchvision_space(space: Any, bins: int) -> dict[str, Any]:
    """Returns the magnitudes of each operation and if half of them are negated."""
    result = {}
    for name, (magnitudes, signed) in space.items():
        values = magnitudes(bins, *SIZE)
        result[name] = [None if values is None else [float(value) for value in values], signed]
    return result


def _torchvision_images(v2: Any) -> Iterator[dict[str, Any]]:
    """Yields images after one operation with a magnitude, as `AutoAugment` applies it."""
    import torch

    image = torch.from_numpy(picture()).permute(2, 0, 1)
    magnitudes = {
        **dict.fromkeys(("ShearX", "ShearY"), (0.21, -0.77)),
        **dict.fromkeys(("TranslateX", "TranslateY"), (3.9, -7.2)),
        "Rotate": (23.0, -101.3),
        **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), (0.57, -0.63)),
        "Posterize": (2.0, 5.0, 8.0),
        "Solarize": (0.0, 0.43, 1.0),
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert", "Identity"), (0.0,)),
    }
    for name, values in magnitudes.items():
        is_geometric = name in SIGNED
        for interpolation in ("nearest", "bilinear") if is_geometric else ("nearest",):
            base = v2.AutoAugment(interpolation=interpolation, fill=list(FILL))
            mode = v2.InterpolationMode(interpolation)
            for value in values:
                result = base._apply_image_or_video_transform(image, name, value, mode, base._fill)
                yield {
                    "name": name,
                    "magnitude": value,
                    "interpolation": interpolation,
                    "image": _text(result.permute(1, 2, 0).numpy()),
                }


def _torchvision_augmix(v2: Any) -> Iterator[dict[str, Any]]:
    """Yields images of AugMix with recorded operations and weights."""
    import torch

    image = torch.from_numpy(picture()).permute(2, 0, 1)
    for seed in range(4):
        torch.manual_seed(seed)
        mix = v2.AugMix(severity=10, fill=list(FILL))
        apply, sample = mix._apply_image_or_video_transform, mix._sample_dirichlet
        operations: list[Any] = []
        weights: list[Any] = []
        depths: list[int] = []
        randint = torch.randint

        def record_apply(
            image: Any,
            name: str,
            magnitude: float,
            *,
            kept: Any = operations,
            do: Any = apply,
            **rest: Any,
        ) -> Any:
            kept.append([name, magnitude])
            return do(image, name, magnitude, **rest)

        def record_sample(params: Any, kept: Any = weights, do: Any = sample) -> Any:
            drawn = do(params)
            kept.append(drawn[0].tolist())
            return drawn

        def record_depth(*args: Any, kept: Any = depths, do: Any = randint, **rest: Any) -> Any:
            drawn = do(*args, **rest)
            if "low" in rest:
                kept.append(drawn.item())
            return drawn

        with (
            mock.patch.object(mix, "_apply_image_or_video_transform", record_apply),
            mock.patch.object(mix, "_sample_dirichlet", record_sample),
            mock.patch("torch.randint", record_depth),
        ):
            result = mix(image)
        steps = iter(operations)
        yield {
            "chains": [[next(steps) for _ in range(depth)] for depth in depths],
            "weights": weights,
            "image": _text(result.permute(1, 2, 0).numpy()),
        }


def _timm() -> dict[str, Any]:
    import PIL
    import timm
    from timm.data import auto_augment as source

    policies = {
        name: [
            [[op.name, op.prob, op.magnitude] for op in sub]
            for sub in source.auto_augment_policy(name)
        ]
        for name in ("v0", "v0r", "original", "originalr")
    }
    configs = (
        "rand-m9-mstd0.5-inc1",
        "rand-m9-mstd0.5",
        "rand-m7-n3-p0.25-mstd1-inc1",
        "rand-mstd101-mmax20-m15",
        "rand-n1-inc0",
    )
    return {
        "source": f"timm {timm.__version__}, Pillow {PIL.__version__}",
        "policies": policies,
        "configs": {config: _timm_config(source, config) for config in configs},
        "arguments": {
            name: [_timm_arguments(source, name, level) for level in LEVELS]
            for name in source.LEVEL_TO_ARG
            if not name.startswith(("Desaturate", "Gaussian"))
        },
        "images": list(_timm_images(source)),
    }


def _timm_config(source: Any, config: str) -> dict[str, Any]:
    made = source.rand_augment_transform(config, {"img_mean": FILL})
    op = made.ops[0]
    return {
        "names": [op.name for op in made.ops],
        "num_layers": made.num_layers,
        "probability": op.prob,
        "magnitude": op.magnitude,
        "deviation": op.magnitude_std,
        "limit": op.magnitude_max,
    }


def _timm_arguments(source: Any, name: str, level: float) -> list[Any]:
    """Returns the argument of an operation at a level, not negated and negated."""
    function = source.LEVEL_TO_ARG[name]
    if function is None:
        return [None, None]
    found = []
    for sign in (1, -1):
        with mock.patch.object(source, "_randomly_negate", lambda value, sign=sign: sign * value):
            found.append(function(level, {"translate_const": 100})[0])
    return found


def _timm_images(source: Any) -> Iterator[dict[str, Any]]:
    """Yields images after one operation at a level."""
    from PIL import Image

    image = Image.fromarray(picture())
    levels = {
        "PosterizeIncreasing": (3, 9),
        "PosterizeOriginal": (5,),
        "SolarizeIncreasing": (0, 6, 10),
        "SolarizeAdd": (7,),
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), (5,)),
        **dict.fromkeys(("ColorIncreasing", "ContrastIncreasing"), (6.3,)),
        **dict.fromkeys(("BrightnessIncreasing", "SharpnessIncreasing"), (6.3,)),
        **dict.fromkeys(("Rotate", "ShearX", "ShearY"), (8.3,)),
        **dict.fromkeys(("TranslateXRel", "TranslateYRel"), (4.1,)),
    }
    modes = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for name, values in levels.items():
        is_geometric = name in SIGNED
        is_signed = is_geometric or name in _ENHANCED
        for interpolation, mode in (
            modes.items() if is_geometric else [("bicubic", modes["bicubic"])]
        ):
            hparams = {"img_mean": FILL, "interpolation": mode}
            for value in values:
                for sign in (1, -1) if is_signed else (1,):
                    negate = mock.patch.object(
                        source, "_randomly_negate", lambda value, sign=sign: sign * value
                    )
                    with negate:
                        result = source.AugmentOp(name, 1.0, value, hparams)(image)
                    yield {
                        "name": name,
                        "level": value,
                        "sign": sign,
                        "interpolation": interpolation,
                        "image": _text(result),
                    }


def _tensorflow(big_vision: str, addons: str) -> dict[str, Any]:
    import tensorflow as tf

    # Only the files of three functions are loaded: the package itself needs an older Keras.
    for name in ("tensorflow_addons", "tensorflow_addons.image", "tensorflow_addons.utils"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(Path(addons, *name.split(".")))]
    sys.modules["tensorflow_addons.utils.types"] = mock.MagicMock()
    image = sys.modules["tensorflow_addons.image"]
    for module, names in (
        ("transform_ops", ("rotate", "transform")),
        ("translate_ops", ("translate",)),
    ):
        loaded = importlib.import_module(f"tensorflow_addons.image.{module}")
        for name in names:
            setattr(image, name, getattr(loaded, name))
    vars(sys.modules["tensorflow_addons"])["image"] = image
    sys.path.insert(0, str(Path(big_vision, "big_vision", "pp")))
    source = importlib.import_module("autoaugment")
    return {
        "source": f"big_vision pp/autoaugment.py, TensorFlow {tf.__version__}",
        "policies": {"v0": _plain(source.policy_v0())},
        "arguments": {
            name: [_tensorflow_arguments(source, name, level) for level in range(11)]
            for name in source.NAME_TO_FUNC
        },
        "images": list(_tensorflow_images(source)),
    }


def _negated(source: Any, sign: int) -> Any:
    return mock.patch.object(source, "_randomly_negate_tensor", lambda value: sign * value)


def _tensorflow_arguments(source: Any, name: str, level: float) -> list[Any]:
    """Returns the argument of an operation at a level, not negated and negated."""
    found: list[Any] = []
    for sign in (1, -1):
        with _negated(source, sign):
            hparams = source.HParams(cutout_const=40, translate_const=100)
            argument = source.level_to_arg(hparams)[name](level)
            found.append(_plain(argument[0]) if argument else None)
    return found


def _tensorflow_images(source: Any) -> Iterator[dict[str, Any]]:
    """Yields images after one operation at a level."""
    import tensorflow as tf

    levels: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(("AutoContrast", "Equalize", "Invert"), (5,)),
        "Rotate": (8,),
        "Posterize": (2, 6, 10),
        "Solarize": (4, 10),
        "SolarizeAdd": (7,),
        **dict.fromkeys(("Color", "Contrast", "Brightness", "Sharpness"), (2, 9)),
        **dict.fromkeys(("ShearX", "ShearY"), (9,)),
        **dict.fromkeys(("TranslateX", "TranslateY"), (1,)),
        "Cutout": (1, 2),
    }
    image = tf.constant(picture())
    for name, values in levels.items():
        for value in values:
            for sign in (1, -1) if name in SIGNED else (1,):
                centre = [5, 21]
                draws = [tf.constant(place) for place in centre]
                random = mock.patch.object(source.tf, "random_uniform", side_effect=draws)
                hparams = source.HParams(cutout_const=40, translate_const=37)
                with _negated(source, sign), random:
                    function, _, args = source._parse_policy_info(
                        name, 1.0, value, [128] * 3, hparams
                    )
                    result = function(image, *args)
                yield {
                    "name": name,
                    "level": value,
                    "sign": sign,
                    "centre": centre,
                    "image": _text(result.numpy()),
                }


if __name__ == "__main__":
    main()
