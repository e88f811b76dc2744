"""The names of built-in augmentations in `data.augment`, and the check of their options."""

import types
from collections.abc import Mapping
from typing import Any

from cnn_jax import errors, schema
from cnn_jax.data.augment import erasing, jitter, mixing, moves, tabled, warps
from cnn_jax.data.augment.operation import Operation
from cnn_jax.data.augment.policies import of_tensorflow, of_timm, of_torchvision

TABLE: Mapping[str, type[Operation]] = types.MappingProxyType(
    {
        "random_crop": moves.RandomCrop,
        "random_flip": moves.RandomFlip,
        "random_resized_crop": warps.RandomResizedCrop,
        "random_affine": warps.RandomAffine,
        "colour_jitter": jitter.ColourJitter,
        "pca_colour": jitter.PcaColour,
        "random_grey": jitter.RandomGrey,
        "random_sharpness": jitter.RandomSharpness,
        "gaussian_blur": jitter.GaussianBlur,
        "random_invert": tabled.RandomInvert,
        "random_solarize": tabled.RandomSolarize,
        "random_posterize": tabled.RandomPosterize,
        "random_autocontrast": tabled.RandomAutocontrast,
        "random_equalize": tabled.RandomEqualize,
        "random_erasing": erasing.RandomErasing,
        "cutout": erasing.Cutout,
        "mixup": mixing.Mixup,
        "cutmix": mixing.Cutmix,
        "mixup_cutmix": mixing.MixupCutmix,
        "rand_augment": of_torchvision.RandAugment,
        "trivial_augment_wide": of_torchvision.TrivialAugmentWide,
        "auto_augment": of_torchvision.AutoAugment,
        "augmix": of_torchvision.AugMix,
        "rand_augment_timm": of_timm.RandAugmentTimm,
        "auto_augment_timm": of_timm.AutoAugmentTimm,
        "rand_augment_tf": of_tensorflow.RandAugmentTf,
        "auto_augment_tf": of_tensorflow.AutoAugmentTf,
    }
)
"""The built-in augmentations by name."""

MIXING = ("mixup", "cutmix", "mixup_cutmix")
"""Those that mix classes: their batches have targets."""


def read(name: str, options: Mapping[str, Any]) -> Operation:
    """Returns a built-in augmentation with its options; missing options take their defaults.

    Raises:
      UserError: there is no such augmentation or option, or a value is not allowed.
    """
    if name not in TABLE:
        unknown = errors.unknown("augmentation in data.augment", name, TABLE)
        raise errors.UserError(f"{unknown}; your own is named as 'module:attribute'")
    kind = TABLE[name]
    title = f"data.augment {name!r}"
    keys = {key.path: key for key in schema.keys_of(kind)}
    for option in options:
        if option not in keys:
            raise errors.unknown(f"option of {title}", option, keys)
    values = {
        option: schema.convert(keys[option]._replace(path=f"{title} {option}"), value)
        for option, value in options.items()
    }
    operation: Operation = schema.build(kind, values)
    if problem := operation.problem():
        raise errors.UserError(f"{title} {problem}")
    return operation
