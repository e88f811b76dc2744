"""Small synthetic checkpoints in timm's format."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_jax import errors, pretrained
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
    with pytest.raises(errors.UserError) as caught:
        pretrained.from_torch(name, {}, **{"num_classes": 10, **options})
    lines = re.findall(r"missing: (\S+) \((.*)\)", str(caught.value))
    shapes = {key: tuple(int(n) for n in shape.split(",") if n.strip()) for key, shape in lines}
    return {key: fill.weight(key, shape).astype(dtype) for key, shape in shapes.items()}


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
