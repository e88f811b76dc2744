"""The cases of `benchmark.augment` with torchvision's transforms v2 on tensors."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from cnn_jax import errors
from cnn_jax.benchmark import augment, torch_ops


def version() -> str:
    """Returns the versions of torch and torchvision and torch's number of threads as text.

    Raises:
      errors.UserError: torch or torchvision is not installed.
    """
    try:
        import torchvision
    except ImportError as error:
        raise errors.UserError(
            f"--against=torch needs torch and torchvision ({error}); run: {torch_ops.INSTALL}"
        ) from error
    return f"{torch_ops.version()}, torchvision {torchvision.__version__}"


# Our names, with class and arguments. First, transforms of uint8 images.
_BYTES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "random_crop": ("RandomCrop", {"padding": 4}),
        "random_flip": ("RandomHorizontalFlip", {}),
        "random_resized_crop": ("RandomResizedCrop", {}),
        "random_affine": ("RandomAffine", {"degrees": 30, "translate": (0.1, 0.1)}),
        "colour_jitter": ("ColorJitter", augment.JITTER),
        "random_grey": ("RandomGrayscale", {"p": 0.5}),
        "random_sharpness": ("RandomAdjustSharpness", {"sharpness_factor": 2, "p": 0.5}),
        "gaussian_blur": ("GaussianBlur", {"kernel_size": 23}),
        "random_invert": ("RandomInvert", {"p": 0.5}),
        "random_solarize": ("RandomSolarize", {"threshold": 128, "p": 0.5}),
        "random_posterize": ("RandomPosterize", {"bits": 4, "p": 0.5}),
        "random_autocontrast": ("RandomAutocontrast", {"p": 0.5}),
        "random_equalize": ("RandomEqualize", {"p": 0.5}),
        "rand_augment": ("RandAugment", {}),
        "trivial_augment_wide": ("TrivialAugmentWide", {}),
        "auto_augment": ("AutoAugment", {}),
        "augmix": ("AugMix", {}),
    }
)
_SIZED = ("random_crop", "random_resized_crop")
_NORMALISED: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {"random_erasing": ("RandomErasing", {"p": 0.25})}
)
_BATCHES: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "mixup": ("MixUp", {"alpha": 0.8, "num_classes": augment.NUM_CLASSES}),
        "cutmix": ("CutMix", {"num_classes": augment.NUM_CLASSES}),
    }
)


def has(name: str) -> bool:
    """Returns True if torchvision has every augmentation of a case."""
    known = {*_BYTES, *_NORMALISED, *_BATCHES}
    return all(entry in known for entry, _ in augment.CASES[name])


def programs(name: str, batch_size: int, size: int) -> dict[str, Callable[[], object]]:
    """Returns the two programs of a case by name.

    Args:
      name: a key of `augment.CASES` that torchvision has.
      batch_size: the number of images.
      size: height and width in pixels.

    Returns:
      'each image' draws random parameters for each image, transforms one image after another, as a
      data loader does, and stacks them. 'whole batch' draws once for all images.
    """
    import torch
    from torchvision.transforms import v2

    given = augment.batch(batch_size, size)
    images = torch.from_numpy(np.ascontiguousarray(given["image"].transpose(0, 3, 1, 2)))
    labels = torch.from_numpy(given["label"].astype(np.int64))

    def made(table: Mapping[str, tuple[str, Mapping[str, Any]]]) -> list[Any]:
        found = []
        for entry, _ in augment.CASES[name]:
            if entry in table:
                kind, options = table[entry]
                sized = {"size": size} if entry in _SIZED else {}
                found.append(getattr(v2, kind)(**options, **sized))
        return found

    to_float = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(augment.MEAN, augment.STD)]
    single = v2.Compose([*made(_BYTES), *to_float, *made(_NORMALISED)])
    mixing = made(_BATCHES)

    def mixed(values: Any) -> object:
        result = (values, labels)
        for transform in mixing:
            result = transform(*result)
        return result

    return {
        "each image": lambda: mixed(torch.stack([single(image) for image in images])),
        "whole batch": lambda: mixed(single(images)),
    }
