"""RandAugment and other policies; `tests/golden/make_policies.py` made the reference."""

import base64
import functools
import json
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import contracts, errors
from cnn_jax.data.augment import geometry, names
from cnn_jax.data.augment.policies import (
    layers,
    of_tensorflow,
    of_timm,
    of_torchvision,
    operations,
    sub_policies,
)
from tests.golden import make_policies

# In one process, so that operations of equal shapes are compiled once.
pytestmark = pytest.mark.xdist_group("augment")
SHAPE = (make_policies.HEIGHT, make_policies.WIDTH, make_policies.CHANNELS)
FILL = tuple(float(value) for value in make_policies.FILL)
DESCRIPTION = contracts.Description(
    ("a", "b"), None, SHAPE, mean=(0.485, 0.456, 0.406), std=(0.25,) * 3
)
OURS = {
    "AutoContrast": "auto_contrast",
    "Color": "saturation",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "SolarizeAdd": "solarize_add",
    "TranslateX": "translate_x",
    "TranslateXRel": "translate_x",
    "TranslateY": "translate_y",
    "TranslateYRel": "translate_y",
}


@functools.cache
def golden(library: str) -> dict[str, Any]:
    return json.loads((make_policies.DIRECTORY / f"{library}.json").read_text())


def ours(name: str) -> str:
    name = name.removesuffix("Increasing").removesuffix("Original")
    return OURS.get(name, name.lower())


def pictures(cases: Sequence[dict[str, Any]]) -> np.ndarray:
    """Returns the images of golden cases, `[N, H, W, C]`."""
    raw = b"".join(base64.b64decode(case["image"]) for case in cases)
    return np.frombuffer(raw, np.uint8).reshape(-1, *SHAPE)


def allowed(name: str, style: str) -> float:
    """Returns the largest share of values that may differ, by one level.

    XLA divides and multiplies in another order than torch, Pillow (in float64) and TensorFlow, so
    that a value that is whole on paper is truncated to the one below, or not.
    """
    if name == "auto_contrast":
        return 0.02
    if style == "pillow" and name.startswith(("rotate", "shear", "translate")):
        return 0.001
    return 0.001 if (name, style) == ("sharpness", "tensorflow") else 0.0


def check(
    library: operations.Library, cases: Sequence[dict[str, Any]], arguments: Sequence[float]
) -> None:
    """Checks the picture after each operation against the golden images."""
    found = [ours(case["name"]) for case in cases]
    images = jnp.asarray(np.broadcast_to(make_policies.picture(), (len(cases), *SHAPE)))
    centre = jnp.array([case["centre"] for case in cases]) if "centre" in cases[0] else None
    linear = None
    if library.interpolation == "bicubic":
        linear = jnp.array([case["interpolation"] == "bilinear" for case in cases])
    values = jnp.array(arguments, jnp.float32)
    chosen = operations.Chosen(layers.numbers(found), values, centre, linear)
    apply = jax.jit(lambda images, chosen: operations.apply(images, chosen, library, set(found)))
    difference = np.abs(np.asarray(apply(images, chosen)).astype(int) - pictures(cases))
    assert difference.max() <= 1
    shares = (difference > 0).mean((1, 2, 3))
    limits = [allowed(name, library.style) for name in found]
    if library == operations.Library("torchvision", "bilinear", FILL):
        limits = [0.003] * len(cases)  # torch divides the coordinates by the size, and multiplies.
    failed = {
        (name, argument): share
        for name, argument, share, limit in zip(found, arguments, shares, limits, strict=True)
        if share > limit
    }
    assert not failed


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_operations_are_those_of_torchvision(interpolation: Any) -> None:
    library = operations.Library("torchvision", interpolation, FILL)
    cases = [
        case for case in golden("torchvision")["images"] if case["interpolation"] == interpolation
    ]
    check(library, cases, [argument(case["name"], case["magnitude"]) for case in cases])


def argument(name: str, magnitude: float) -> float:
    """Returns our argument of an operation by torchvision's name."""
    return float(of_torchvision.argument(ours(name), np.array(magnitude, np.float32)))


def test_shears_of_torchvision_have_exactly_their_tangents() -> None:
    tangents = np.linspace(-0.99, 0.99, 31, dtype=np.float32)
    for axis in (0, 1):
        matrices = np.asarray(geometry.shear(jnp.asarray(tangents), axis, 224, 160))
        expected = np.tile(np.eye(2, 3), (31, 1, 1))
        expected[:, axis, 1 - axis] = tangents
        # The corner (-W / 2, -H / 2) stays where it is.
        expected[:, axis, 2] = tangents * (112, 80)[axis]
        np.testing.assert_array_equal(matrices[:, :, :2], expected[:, :, :2])
        np.testing.assert_allclose(matrices, expected, atol=1e-5)


def test_operations_are_those_of_timm_with_either_interpolation() -> None:
    library = operations.Library("pillow", operations.INTERPOLATIONS["random"], FILL)
    cases = golden("timm")["images"]
    check(library, cases, [float(timm_argument(**case, size=SHAPE[:2])) for case in cases])


def timm_argument(
    name: str, level: float | np.ndarray, sign: int, size: tuple[int, int], **_: object
) -> jax.Array:
    """Returns our argument of an operation by timm's name."""
    increasing = name.endswith("Increasing")
    original = name.endswith("Original")
    posterize = "original" if original else "increasing" if increasing else "decreasing"
    rules = of_timm.Rules(increasing, posterize)
    return of_timm.argument(ours(name), jnp.float32(level), jnp.float32(sign), rules, size)


def test_operations_are_those_of_tensorflow() -> None:
    cases = golden("tensorflow")["images"]
    arguments = [
        of_tensorflow.arguments(ours(case["name"]), case["level"], 37)[int(case["sign"] < 0)]
        for case in cases
    ]
    check(of_tensorflow.LIBRARY, cases, [float(argument) for argument in arguments])


def test_arguments_at_each_level_are_those_of_timm() -> None:
    for name, pairs in golden("timm")["arguments"].items():
        if name in ("TranslateX", "TranslateY"):
            continue  # in pixels; the policies here use shares of the size
        size = (1, 1) if name.startswith("Translate") else SHAPE[:2]
        for sign, column in ((1, 0), (-1, 1)):
            expected = [pair[column] for pair in pairs]
            found = timm_argument(name, np.array(make_policies.LEVELS), sign, size)
            if expected[0] is not None:
                np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_arguments_at_each_level_are_those_of_tensorflow() -> None:
    for name, pairs in golden("tensorflow")["arguments"].items():
        if pairs[0][0] is None:
            continue
        expected = np.array(pairs)
        if name == "Posterize":  # A byte is shifted by at most 7.
            expected = np.maximum(expected, 1)
        if name == "Solarize":  # The threshold 256 is the byte 0.
            expected %= 256
        found = [of_tensorflow.arguments(ours(name), level, 100) for level in range(len(pairs))]
        np.testing.assert_allclose(found, expected, rtol=1e-6, err_msg=name)


def test_magnitudes_are_those_of_torchvision() -> None:
    for policy, golden_space in golden("torchvision")["spaces"].items():
        space = of_torchvision.SPACES[policy]
        assert sorted(space.names) == sorted(map(ours, golden_space))
        for name, (magnitudes, signed) in golden_space.items():
            bins = len(magnitudes or [0] * 31)
            found = space.arguments(ours(name), bins, make_policies.SIZE)
            if magnitudes is None:
                continue
            given = np.array(magnitudes, np.float32)
            expected = of_torchvision.argument(ours(name), given)
            title = f"{policy} {name}"
            exact = name.startswith(("Translate", "Posterize"))
            np.testing.assert_allclose(
                found[:, 0], expected, rtol=0 if exact else 1e-6, atol=0, err_msg=title
            )
            negated = of_torchvision.argument(ours(name), -given) if signed else expected
            np.testing.assert_allclose(found[:, 1], negated, rtol=1e-6, atol=1e-6, err_msg=title)


def simple(policy: Sequence[Sequence[Sequence[Any]]]) -> list[list[list[Any]]]:
    """Returns a policy with our names, and level 0 for operations without a level."""
    without = ("auto_contrast", "equalize", "invert")
    return [
        [[ours(name), share, 0 if ours(name) in without else level] for name, share, level in pair]
        for pair in policy
    ]


@pytest.mark.parametrize(
    ("library", "name", "own"),
    [
        ("torchvision", "imagenet", "imagenet"),
        ("torchvision", "cifar10", "cifar10"),
        ("torchvision", "svhn", "svhn"),
        ("tensorflow", "v0", "v0"),
        ("timm", "v0", "v0"),
        ("timm", "v0r", "v0"),
        ("timm", "original", "imagenet"),
        ("timm", "originalr", "imagenet"),
    ],
)
def test_sub_policies_are_those_of_the_authors(library: str, name: str, own: str) -> None:
    found = [[list(step) for step in pair] for pair in sub_policies.TABLES[own]]
    assert found == simple(golden(library)["policies"][name])


@pytest.mark.parametrize("config", list(golden("timm")["configs"]))
def test_a_configuration_means_what_it_means_in_timm(config: str) -> None:
    settings, expected = of_timm.read_rand(config), golden("timm")["configs"][config]
    assert settings.layers == expected["num_layers"]
    assert settings.probability == expected["probability"]
    assert settings.levels.mean == expected["magnitude"]
    assert settings.levels.deviation == expected["deviation"]
    assert settings.levels.limit == (expected["limit"] or 10)
    assert [ours(name) for name in expected["names"]] == list(of_timm.NAMES)
    increasing = "PosterizeIncreasing" in expected["names"]
    assert settings.rules == of_timm.Rules(increasing, "increasing" if increasing else "decreasing")


@pytest.mark.slow
def test_augmix_is_that_of_torchvision() -> None:
    cases = golden("torchvision")["augmix"]
    library = operations.Library("torchvision", "bilinear", FILL)
    longest = 3
    operation, arguments, own, weights = [], [], [], []
    for case in cases:
        steps = [(chain + [["Identity", 0.0]] * longest)[:longest] for chain in case["chains"]]
        flat = [step for chain in steps for step in chain]
        operation.append(layers.numbers([ours(name) for name, _ in flat]))
        arguments.append([argument(name, magnitude) for name, magnitude in flat])
        (first, second), each = case["weights"]
        own.append(first)
        weights.append(np.float32(second) * np.array(each, np.float32))
    chosen = operations.Chosen(jnp.stack(operation, 1), jnp.array(arguments).T)
    images = jnp.asarray(np.broadcast_to(make_policies.picture(), (len(cases), *SHAPE)))
    mix = jax.jit(of_torchvision.mix, static_argnums=(4, 5))
    occurring = of_torchvision.SPACES["augmix"].names
    found = mix(images, chosen, jnp.array(own), jnp.array(weights).T, library, occurring)
    difference = np.abs(np.asarray(found).astype(int) - pictures(cases))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def test_policies_leave_other_fields_and_the_type_of_pixels() -> None:
    images = jnp.asarray(np.broadcast_to(make_policies.picture(), (6, *SHAPE)))
    given = {"image": images, "label": jnp.arange(6), "weight": jnp.ones(6)}
    for name in ("rand_augment", "auto_augment_timm", "rand_augment_tf", "augmix"):
        result = jax.eval_shape(names.read(name, {}).make(DESCRIPTION), jax.random.key(0), given)
        assert {key: (each.shape, each.dtype) for key, each in result.items()} == {
            key: (each.shape, each.dtype) for key, each in given.items()
        }


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rand_augment", {"magnitude": 31}, "magnitude must be below num_magnitude_bins, 31"),
        ("rand_augment", {"interpolation": "bicubic"}, "interpolation must be nearest or bilinear"),
        ("trivial_augment_wide", {"fill": (128.0,)}, r"fill must be numbers in \[0, 1\]"),
        ("auto_augment", {"policy": "v0"}, "policy must be imagenet, cifar10 or svhn"),
        ("augmix", {"chain_depth": 0}, "chain_depth must be -1"),
        ("rand_augment_timm", {"config": "m9-mstd0.5"}, "must start with rand"),
        ("rand_augment_timm", {"config": "rand-m9.5"}, "has the part 'm9.5'; allowed are m, n, p"),
        ("rand_augment_timm", {"config": "rand-n0"}, "needs n from 1 to 100"),
        ("rand_augment_timm", {"config": "rand-n101"}, "needs n from 1 to 100"),
        ("rand_augment_timm", {"config": "rand-x1"}, "has the part 'x1'"),
        ("auto_augment_timm", {"config": "v1"}, "must start with v0 or v0r"),
        ("auto_augment_timm", {"config": "v0-m9"}, "has the part 'm9'; allowed are mstd"),
        ("rand_augment_tf", {"magnitude": 11}, "magnitude must be at least 0 and below 11"),
    ],
)
def test_a_bad_option_is_an_error(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        names.read(name, options)


def test_a_policy_needs_bytes_and_one_or_three_channels() -> None:
    floats = contracts.Description(("a",), None, SHAPE, mean=(0.5,) * 3, std=(1.0,) * 3, peak=1.0)
    with pytest.raises(errors.UserError, match="'rand_augment' is for uint8 images"):
        names.read("rand_augment", {}).make(floats)
    four = contracts.Description(("a",), None, (8, 8, 4), mean=(0.5,) * 4, std=(1.0,) * 4)
    with pytest.raises(errors.UserError, match="1 or 3 channels, and these have 4"):
        names.read("augmix", {}).make(four)
    with pytest.raises(errors.UserError, match="fill has 2 numbers; give one, or one for each of"):
        names.read("auto_augment", {"fill": (0.5, 1.0)}).make(DESCRIPTION)
