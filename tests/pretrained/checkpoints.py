"""Small synthetic checkpoints in timm's format."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import traverse_util

from cnn_jax import errors, pretrained
from cnn_jax.pretrained import convert
from cnn_jax.pretrained.families import tables
from cnn_jax.pretrained.network import Network, Shape
from cnn_jax.pretrained.network import Path as VariablePath
from tests.golden import fill

NETWORK = "squeezenet1_1"
CONFIG = {
    "architecture": NETWORK,
    "num_classes": 10,
    "num_features": 512,
    "global_pool": "avg",
    "model_args": {"in_chans": 3, "num_classes": 10, "global_pool": "avg", "drop_rate": None},
    "pretrained_cfg": {
        "input_size": [3, 40, 40],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.3, 0.2, 0.1],
        "num_classes": 10,
        "first_conv": "features.0",
        "classifier": "classifier.1",
    },
}


def state_dict(
    name: str = NETWORK, dtype: str = "float32", **options: Any
) -> dict[str, np.ndarray]:
    """Returns a formula-filled state dict for network `name` with 10 classes, in torch's layout."""
    network = Network.of(name, None, options)
    entries = convert.entries(network, {}, num_classes=10).values()
    return {entry.name: fill.weight(entry.name, entry.shape).astype(dtype) for entry in entries}


def safetensors(entries: Mapping[str, np.ndarray]) -> bytes:
    """Returns the content of a safetensors file of float32 arrays."""
    header, data = {}, b""
    for key, array in entries.items():
        end = len(data) + array.nbytes
        header[key] = {"dtype": "F32", "shape": array.shape, "data_offsets": (len(data), end)}
        data += array.tobytes()
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write(
    directory: Path, entries: Mapping[str, np.ndarray], config: Mapping[str, Any] = CONFIG
) -> Path:
    """Writes config.json and model.safetensors into `directory`, as on the Hub."""
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").write_bytes(safetensors(entries))
    return directory


def random_variables(shapes: Mapping[VariablePath, Shape]) -> dict[str, Any]:
    """Returns variables of the given shapes with values in [0, 1), all of them different draws."""
    random = np.random.default_rng(0)
    flat = {path: random.random(shape, np.float32) for path, shape in shapes.items()}
    return traverse_util.unflatten_dict(flat)


def failure(*arguments: Any, **options: Any) -> str:
    """Returns the message of `pretrained.load`, which is one line."""
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(*arguments, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "\x1b" not in message
    assert len(message) < 1000
    return message


def assert_owned(state_dict: Mapping[str, np.ndarray]) -> None:
    """Checks that each array is in C order and owns its data."""
    for key, array in state_dict.items():
        assert array.flags.c_contiguous, key
        assert array.flags.owndata, key


def assert_exports_are_owned(name: str, shapes: Mapping[VariablePath, Shape]) -> None:
    """Checks arrays and inverse of state dicts, with short axes of outputs to save time."""
    short = {path: (*shape[:-1], min(shape[-1], 2)) for path, shape in shapes.items()}
    variables = random_variables(short)
    flat = traverse_util.flatten_dict(variables)
    for table in tables.for_file(name):
        state_dict = convert.to_state_dict(table, variables)
        assert len(state_dict) == len(shapes), "two variables have the same name"
        assert_owned(state_dict)
        for path, leaf in flat.items():
            entry = convert.entry(table, path, leaf.shape)
            np.testing.assert_array_equal(entry.to_variable(state_dict[entry.name]), leaf)
