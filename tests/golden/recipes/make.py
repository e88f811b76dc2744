"""Writes `SOURCE.json`: values of the original code of the recipes in `configs`.

    python -m tests.golden.recipes.make SOURCE [DIR]

SOURCE is torchvision, or a key of `COMMITS`. DIR is a clone of its repository at that commit;
torchvision needs none. Needs torch, torchvision and timm. big_vision needs JAX, Flax and einops.
Swin needs yacs.

Rates are those of five named steps, for the steps per epoch of the original code. The arrays with
weight decay are counted by size, which does not depend on names and layouts.
"""

import importlib
import json
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
COMMITS = {
    "timm": "huggingface/pytorch-image-models aa4b5850c1543fa488abf260f18390eda46cf85d",
    "swin": "microsoft/Swin-Transformer f82860bfb5225915aca09c3227159ee9e1df874d",
    "convnext": "facebookresearch/ConvNeXt 048efcea897d999aed302f2639b6270aedf8d4c8",
    "big_vision": "google-research/big_vision 0127fb6b337ee2a27bf4e54dea79cff176527356",
}


def main(source: str, directory: str = "") -> None:
    """Writes the file of a source."""
    import torch

    # The torchvision of PyPI is built for CUDA. Beside a torch for CPUs, its operators for
    # detection do not load, and describing them fails. The recipes use none of them.
    torch.library.register_fake = lambda _: lambda function: function
    if directory:
        sys.path.insert(0, directory)
    recipes = importlib.import_module(f"tests.golden.recipes.of_{source}").recipes()
    found = {
        "source": _versions(source),
        "script": "tests/golden/recipes/make.py",
        "recipes": dict(recipes),
    }
    text = json.dumps(found, indent=1)
    # Innermost lists and objects are on one line each.
    text = re.sub(r"[\[{][^][{}]*[\]}]", lambda match: re.sub(r"\s+", " ", match[0]), text)
    (FOLDER / f"{source}.json").write_text(f"{text}\n")


def _versions(source: str) -> str:
    names = {"torchvision": ("torch", "torchvision"), "big_vision": ("jax", "flax")}
    modules = names.get(source, ("torch", "torchvision", "timm"))
    versions = [f"{name} {importlib.import_module(name).__version__}" for name in modules]
    return ", ".join([*([COMMITS[source]] if source in COMMITS else []), *versions])


if __name__ == "__main__":
    main(*sys.argv[1:])
