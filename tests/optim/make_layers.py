"""Writes `data/layers-LIBRARY.json`: rates by layer of timm, and of the authors of MAE.

    python -m tests.optim.make_layers MAE

Needs torch and timm. MAE is a clone of github.com/facebookresearch/mae. A case has the factor of
the rate of each parameter with a decay of 0.75 per layer.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.optim import param_groups_layer_decay

DATA = Path(__file__).parent / "data"
SCRIPT = "tests/optim/make_layers.py"
DECAY = 0.75
VIT = "vit_tiny_patch16_224"
# Smaller networks, except for the Vision Transformer.
NETWORKS: dict[str, dict[str, Any]] = {
    VIT: {},
    "convnext_tiny": {"depths": (1, 2, 3, 1), "dims": (4, 8, 8, 8)},
    "resnet18": {"layers": (1, 2, 1, 3)},
}


def main() -> None:
    """Writes both files."""
    (clone,) = map(Path, sys.argv[1:])
    with torch.device("meta"):
        cases = {
            name: _factors(timm.create_model(name, **options), param_groups_layer_decay)
            for name, options in NETWORKS.items()
        }
        of_mae = {VIT: _factors(timm.create_model(VIT), _lr_decay(clone).param_groups_lrd)}
    commit = subprocess.run(
        ["git", "-C", clone, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    _write("timm", f"timm {timm.__version__}, torch {torch.__version__}", cases)
    _write("mae", f"github.com/facebookresearch/mae at {commit}, util/lr_decay.py", of_mae)


def _lr_decay(clone: Path) -> Any:
    """Imports `util/lr_decay.py` of MAE, whose package needs more than this file."""
    spec = importlib.util.spec_from_file_location("lr_decay", clone / "util" / "lr_decay.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _factors(model: Any, groups: Callable[..., Any]) -> dict[str, float]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: group["lr_scale"]
        for group in groups(model, layer_decay=DECAY)
        for parameter in group["params"]
    }


def _write(library: str, source: str, cases: dict[str, dict[str, float]]) -> None:
    content = {"source": source, "script": SCRIPT, "cases": cases}
    text = json.dumps(content, separators=(",", ":"))
    (DATA / f"layers-{library}.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
