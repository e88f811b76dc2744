"""Imports go one way: from the commands down to what knows of nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# A module may import those of the layers above its own line, and none beside it, unless the
# second table says so.
LAYERS: tuple[frozenset[str], ...] = tuple(
    frozenset(line.split())
    for line in (
        "cnn_jax cnn_jax.errors cnn_jax.keys cnn_jax.memory cnn_jax.compilation",
        "cnn_jax.ops.window cnn_jax.ops.primitive cnn_jax.ops.cpu cnn_jax.ops.cpu.matmul"
        " cnn_jax.ops.native cnn_jax.ops.native.library",
        "cnn_jax.ops.native.geometry",
        "cnn_jax.ops.cpu.views cnn_jax.ops.native.channels cnn_jax.ops.native.conv"
        " cnn_jax.ops.native.pool",
        "cnn_jax.ops.cpu.banded cnn_jax.ops.cpu.phases cnn_jax.ops.cpu.ynnpack",
        "cnn_jax.ops.cpu.dense cnn_jax.ops.cpu.depthwise cnn_jax.ops.cpu.pool",
        "cnn_jax.ops.cpu.grouped",
        "cnn_jax.ops.cpu.conv",
        "cnn_jax.cli cnn_jax.plots cnn_jax.sharding cnn_jax.workdir"
        " cnn_jax.ops.conv cnn_jax.ops.normalize cnn_jax.ops.pool"
        " cnn_jax.losses cnn_jax.optim cnn_jax.interruption cnn_jax.ops.channels"
        " cnn_jax.data.source cnn_jax.data.splits cnn_jax.data.images cnn_jax.data.augment",
        "cnn_jax.ops.stochastic",
        "cnn_jax.ops cnn_jax.metrics cnn_jax.state cnn_jax.logs"
        " cnn_jax.data.digits cnn_jax.data.fake cnn_jax.data.idx cnn_jax.data.tfds"
        " cnn_jax.data.resident",
        "cnn_jax.models.layers cnn_jax.models.digit_codes"
        " cnn_jax.data cnn_jax.steps cnn_jax.checkpoint",
        "cnn_jax.models.attention cnn_jax.models.branches cnn_jax.models.inverted_residual",
        "cnn_jax.models.alexnet cnn_jax.models.convnext cnn_jax.models.cspnet"
        " cnn_jax.models.cuda_convnet cnn_jax.models.densenet cnn_jax.models.efficientnet"
        " cnn_jax.models.fashion_cnn cnn_jax.models.googlenet cnn_jax.models.inception"
        " cnn_jax.models.inception_v4 cnn_jax.models.lenet cnn_jax.models.linear"
        " cnn_jax.models.mobilenet cnn_jax.models.nin cnn_jax.models.resnet"
        " cnn_jax.models.resnetv2 cnn_jax.models.shufflenet cnn_jax.models.squeezenet"
        " cnn_jax.models.swin cnn_jax.models.vgg cnn_jax.models.vit"
        " cnn_jax.models.wide_resnet cnn_jax.models.xception",
        "cnn_jax.models.senet",
        "cnn_jax.models cnn_jax.pretrained.names cnn_jax.pretrained.layout"
        " cnn_jax.pretrained.inverted_residual cnn_jax.pretrained.unpickle"
        " cnn_jax.pretrained.hub cnn_jax.pretrained.released",
        "cnn_jax.pretrained.files cnn_jax.pretrained.alexnet cnn_jax.pretrained.convnext"
        " cnn_jax.pretrained.cspnet cnn_jax.pretrained.densenet"
        " cnn_jax.pretrained.efficientnet cnn_jax.pretrained.googlenet"
        " cnn_jax.pretrained.inception cnn_jax.pretrained.inception_v4"
        " cnn_jax.pretrained.mobilenet cnn_jax.pretrained.resnet cnn_jax.pretrained.resnetv2"
        " cnn_jax.pretrained.shufflenet"
        " cnn_jax.pretrained.squeezenet cnn_jax.pretrained.swin cnn_jax.pretrained.vgg"
        " cnn_jax.pretrained.vit cnn_jax.pretrained.xception",
        "cnn_jax.pretrained.senet cnn_jax.pretrained.torchvision",
        "cnn_jax.pretrained.preprocessing cnn_jax.pretrained.tables"
        " cnn_jax.pretrained.applications",
        "cnn_jax.pretrained.convert",
        "cnn_jax.pretrained.heads cnn_jax.pretrained.keras",
        "cnn_jax.pretrained.loading",
        "cnn_jax.pretrained",
        "cnn_jax.job cnn_jax.evaluate cnn_jax.predict cnn_jax.summary",
        "cnn_jax.benchmark cnn_jax.benchmark.models cnn_jax.benchmark.ops"
        " cnn_jax.benchmark.profiling cnn_jax.benchmark.report cnn_jax.benchmark.timing",
        "cnn_jax.benchmark.torch_ops",
        "cnn_jax.benchmark.compare_ops cnn_jax.benchmark.torch_models",
        "cnn_jax.benchmark.compare_models cnn_jax.train",
        "cnn_jax.main cnn_jax.benchmark.__main__",
    )
)
# What a part of the package may use of the package, beyond what the layers forbid.
ONLY = {
    "cnn_jax.ops": {"cnn_jax.errors", "cnn_jax.compilation", "cnn_jax.ops"},
    "cnn_jax.ops.cpu": {"cnn_jax.ops.cpu", "cnn_jax.ops.window"},
    "cnn_jax.ops.native": {"cnn_jax.compilation", "cnn_jax.ops.native", "cnn_jax.ops.window"},
    "cnn_jax.models": {"cnn_jax.errors", "cnn_jax.ops", "cnn_jax.models"},
    "cnn_jax.data": {"cnn_jax.errors", "cnn_jax.keys", "cnn_jax.sharding", "cnn_jax.data"},
    "cnn_jax.pretrained": {
        "cnn_jax.data.images",
        "cnn_jax.data.resident",
        "cnn_jax.errors",
        "cnn_jax.models",
        "cnn_jax.pretrained",
    },
    "cnn_jax.pretrained.files": {"cnn_jax.errors", "cnn_jax.pretrained.unpickle"},
    "cnn_jax.pretrained.hub": {"cnn_jax.errors"},
    "cnn_jax.pretrained.released": {"cnn_jax.errors"},
    "cnn_jax.pretrained.unpickle": {"cnn_jax.errors"},
    "cnn_jax.losses": {"cnn_jax.errors"},
    "cnn_jax.optim": {"cnn_jax.errors"},
    "cnn_jax.metrics": {"cnn_jax.errors", "cnn_jax.losses", "cnn_jax.sharding"},
    "cnn_jax.state": {"cnn_jax.keys", "cnn_jax.sharding"},
    "cnn_jax.steps": {
        "cnn_jax.keys",
        "cnn_jax.losses",
        "cnn_jax.metrics",
        "cnn_jax.sharding",
        "cnn_jax.state",
    },
}
# Who may import what from outside; nobody else does.
RESERVED = {
    "orbax": {"cnn_jax.checkpoint"},
    "absl.app": {"cnn_jax.main"},
    "absl.flags": {"cnn_jax.main"},
    "ml_collections.config_flags": {"cnn_jax.main"},
    "argparse": {
        "cnn_jax.benchmark.__main__",
        "cnn_jax.evaluate",
        "cnn_jax.predict",
        "cnn_jax.summary",
    },
    "huggingface_hub": {"cnn_jax.pretrained.hub"},
    "tensorflow_datasets": {"cnn_jax.data.tfds"},
    "sklearn": {"cnn_jax.data.digits"},
    "tensorboardX": {"cnn_jax.logs"},
    "matplotlib": {"cnn_jax.plots"},
    "timm": {"cnn_jax.benchmark.torch_models"},
    "torch": {"cnn_jax.benchmark.torch_models", "cnn_jax.benchmark.torch_ops"},
    "torchvision": {"cnn_jax.benchmark.torch_models"},
    "tensorflow": set[str](),
    "keras": set[str](),
    "configs": set[str](),
    "experiments": set[str](),
    "tests": set[str](),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((REPOSITORY / "cnn_jax").rglob("*.py"))}
CONFIGS = {module_name(path): path for path in sorted((REPOSITORY / "configs").rglob("*.py"))}


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def imported_names(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """The modules of the package among them."""
    names = [name for name in imported_names(path) if inside(name, "cnn_jax")]
    return {name if name in MODULES else name.rpartition(".")[0] for name in names}


def test_every_module_is_in_one_layer() -> None:
    assert sorted(name for layer in LAYERS for name in layer) == sorted(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_the_layers_below_it(module: str) -> None:
    depth = next(depth for depth, layer in enumerate(LAYERS) if module in layer)
    below = frozenset[str]().union(*LAYERS[:depth])
    assert imported_modules(MODULES[module]) <= below


@pytest.mark.parametrize(("part", "allowed"), ONLY.items())
def test_a_part_uses_only_what_it_may(part: str, allowed: set[str]) -> None:
    for module in (name for name in MODULES if inside(name, part)):
        for used in imported_modules(MODULES[module]):
            assert any(inside(used, other) for other in allowed), f"{module} imports {used}"


@pytest.mark.parametrize(("package", "allowed"), RESERVED.items())
def test_a_package_is_imported_only_where_it_belongs(package: str, allowed: set[str]) -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if any(inside(name, package) for name in imported_names(path))
    }
    assert importers == allowed


def test_configs_import_of_the_package_only_its_errors() -> None:
    for path in CONFIGS.values():
        assert imported_modules(path) <= {"cnn_jax.errors"}, path
        outside = {name.partition(".")[0] for name in imported_names(path)}
        assert outside <= {"cnn_jax", "configs", "ml_collections"}, path
