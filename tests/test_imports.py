"""Imports go one way: a table of rooms, no cycles, and owners of outside packages."""

import ast
import functools
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

# Each room with the other rooms that it may import. A file at the top of the package is a room.
ROOMS: dict[str, str] = {
    "errors": "",
    "limits": "",
    "schema": "errors",
    "sections": "limits schema data.images data.splits",
    "plan": "errors limits schema sections runtime",
    "unread": "plan runtime",
    "contracts": "",
    "losses": "errors plan contracts ops.dtypes runtime",
    "metrics": "losses contracts",
    "optim": "errors plan runtime",
    "runtime": "errors",
    "ops": "errors runtime.compilation_cache runtime.malloc runtime.ownership",
    "models": "errors ops runtime.imports",
    "data": "errors limits plan contracts runtime",
    "objectives": "errors plan contracts losses metrics models runtime",
    "runs": "errors limits plan contracts metrics runtime",
    "pretrained": "errors limits models data.crops data.dtypes data.imagenet data.images"
    " data.pixels runtime.files runtime.prng runtime.seeds",
    "predictor": "errors limits plan contracts losses models data objectives pretrained runs"
    " runtime",
    "evaluators": "errors limits plan contracts metrics data predictor runs runtime",
    "train": "errors plan contracts losses metrics models objectives evaluators optim data"
    " ops.native.library ops.primitive predictor pretrained runs runtime unread",
    "config_files": "errors limits plan runtime schema",
    "main": "config_files errors plan runs runtime train",
    "evaluate": "config_files errors evaluators limits plan runs runtime",
    "predict": "errors predictor runs runtime",
    "summary": "errors models optim runtime",
    "benchmark": "errors config_files plan contracts data losses models objectives ops optim"
    " runtime train",
}
COMMANDS = ("main", "evaluate", "predict", "summary", "benchmark.__main__", "data.pack.__main__")
# Parts of rooms that use less than their room.
PARTS: dict[str, str] = {
    "ops.cpu": "ops.cpu ops.dtypes ops.window",
    "ops.native": "ops.native ops.window runtime.compilation_cache runtime.malloc"
    " runtime.ownership",
    "data.sources": "errors limits plan contracts data runtime.files runtime.imports",
    "data.images": "errors limits data.dtypes data.pillow runtime.files",
    "data.dtypes": "errors",
    "data.decoding_cost": "limits",
    "data.exif": "",
    "data.pillow": "errors limits data.decoding_cost data.dtypes data.exif",
    "data.splits": "errors",
    "pretrained.families": "errors models pretrained.families",
    "pretrained.formats": "errors limits pretrained.formats runtime.files",
}
# The only modules that import an outside package.
OWNERS: dict[str, set[str]] = {
    "orbax": {"runs.checkpoint"},
    "argparse": {
        "benchmark.__main__",
        "data.pack.__main__",
        "evaluate",
        "main",
        "predict",
        "runtime.flags",
        "summary",
    },
    "array_record": {"data.pack.writer", "data.sources.shards"},
    "cv2": {"data.opencv"},
    "simplejpeg": {"data.opencv"},
    "grain": {"data.order", "data.pipeline"},
    "scipy": {"data.pack.imagenet_tars"},
    "safetensors": {"pretrained.formats.writer"},
    "huggingface_hub": {"pretrained.formats.hub"},
    "tensorflow_datasets": {"data.sources.tfds"},
    "sklearn": {"data.sources.digits"},
    "tensorboardX": {"runs.events"},
    "matplotlib": {"benchmark.plots", "runs.plots"},
    "timm": {"benchmark.torch_models"},
    "torch": {"benchmark.torch_models", "benchmark.torch_ops"},
    "torchvision": {"benchmark.torch_models"},
    **{name: set() for name in ("tensorflow", "keras", "configs", "experiments", "tests")},
}
# Flax is imported only in these rooms and files.
FLAX = ("models", "objectives", "pretrained", "contracts")
# Nothing that `from cnn_jax import models` loads may load these packages.
HEAVY = ("matplotlib", "sklearn", "tensorflow_datasets", "orbax", "PIL", "tensorboardX")


def module_name(path: Path) -> str:
    parts = path.relative_to(REPOSITORY / "cnn_jax").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted((REPOSITORY / "cnn_jax").rglob("*.py"))}
CONFIGS = sorted((REPOSITORY / "configs").rglob("*.py"))


def inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


@functools.cache
def imported_names(path: Path) -> tuple[str, ...]:
    """Returns every dotted name that a file imports, at any place in it."""
    return tuple(_imported_names(path))


def _imported_names(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports must be absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(path: Path) -> set[str]:
    """Returns the modules of the package among them, without the package's own name."""
    names = [name for name in imported_names(path) if name.startswith("cnn_jax.")]
    short = {name.removeprefix("cnn_jax.") for name in names}
    return {name if name in MODULES else name.rpartition(".")[0] for name in short} - {""}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_is_in_the_table() -> None:
    assert {room(module) for module in MODULES if module} == set(ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    allowed = [room(module), *ROOMS.get(room(module), "").split()]
    for used in imported_modules(MODULES[module]):
        assert any(inside(used, other) for other in allowed), f"{module} imports {used}"
        assert used not in COMMANDS, f"{module} imports the command {used}"


@pytest.mark.parametrize("part", PARTS)
def test_a_part_of_a_room_imports_only_what_it_may(part: str) -> None:
    for module in (name for name in MODULES if inside(name, part)):
        for used in imported_modules(MODULES[module]):
            assert any(inside(used, other) for other in PARTS[part].split()), f"{module}: {used}"


def test_modules_do_not_import_in_circles() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_rooms_do_not_import_in_circles() -> None:
    graph = {name: {room(other) for other in used.split()} for name, used in ROOMS.items()}
    graph["sections"] -= {"data"}  # These files of data import errors only, as PARTS says.
    list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", OWNERS)
def test_an_outside_package_is_imported_only_by_its_owners(package: str) -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if any(inside(name, package) for name in imported_names(path))
    }
    assert importers == OWNERS[package]


def test_flax_is_imported_only_where_networks_are() -> None:
    for module, path in MODULES.items():
        if any(inside(name, "flax") for name in imported_names(path)):
            assert room(module) in FLAX, module


def test_the_training_room_knows_no_metric_and_no_kind_of_feed() -> None:
    for path in (REPOSITORY / "cnn_jax" / "train").glob("*.py"):
        text = path.read_text()
        assert "top1" not in text, path
        assert "Resident" not in text, path
        if path.name not in ("recorder.py", "runner.py"):
            assert '"validation"' not in text, path


def test_configs_import_of_the_package_only_the_plan_and_its_errors() -> None:
    for path in CONFIGS:
        assert imported_modules(path) <= {"errors", "plan"}, path
        outside = {name.partition(".")[0] for name in imported_names(path)}
        assert outside <= {"cnn_jax", "configs", "ml_collections"}, path


def loaded(code: str) -> set[str]:
    """Returns the names of the modules that are loaded after `code` ran in a new process."""
    script = f"{code}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("name", "allowed"), [("models", set()), ("data", {"PIL"}), ("train", {"orbax", "PIL"})]
)
def test_importing_a_public_module_loads_nothing_heavy(name: str, allowed: set[str]) -> None:
    assert loaded(f"from cnn_jax import {name}") & set(HEAVY) <= allowed


def test_a_plan_is_read_without_jax() -> None:
    assert "jax" not in loaded("from cnn_jax import plan; plan.read(plan.config(plan.Plan()))")


def test_public_modules_are_attributes_of_the_package() -> None:
    assert "cnn_jax.plan" in loaded("import cnn_jax; cnn_jax.plan.Plan")
