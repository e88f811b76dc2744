"""Networks in NNX and Equinox, checkpoints in plain Orbax, and exported programs.

The examples of docs/interop.md are executed by `test_docs.py`.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import export

from cnn_jax import models, ops

STORED = Path(__file__).parent / "stored_runs" / "e1b8c15"
RATE = 0.1
NETWORK = models.create("resnet20", num_classes=3, stage_sizes=(1,), widths=(4,))
IMAGES = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0])


def cross_entropy(logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean()


@jax.jit
def linen_step(variables: Any) -> Any:
    """Returns the variables after a step of SGD; the reference of the other libraries."""

    def loss(params: Any) -> Any:
        changed = {**variables, "params": params}
        logits, updates = NETWORK.apply(changed, IMAGES, train=True, mutable=["batch_stats"])
        return cross_entropy(logits), updates["batch_stats"]

    grads, batch_stats = jax.grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(lambda x, grad: x - RATE * grad, variables["params"], grads)
    return {"params": params, "batch_stats": batch_stats}


@pytest.fixture(scope="module")
def variables() -> Any:
    """Random variables; those of `init` take seconds to compile."""
    shapes = jax.eval_shape(lambda: NETWORK.init(jax.random.key(0), IMAGES[:1], train=False))
    generator = np.random.default_rng(1)
    return jax.tree.map(lambda x: generator.uniform(0.1, 0.4, x.shape).astype(x.dtype), shapes)


def assert_close(actual: Any, expected: Any) -> None:
    # jax.tree.map raises an error if the structures differ.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), actual, expected)


def variables_of(module: nnx.Module) -> dict[str, Any]:
    return {
        "params": nnx.to_pure_dict(nnx.state(module, nnx.Param)),
        "batch_stats": nnx.to_pure_dict(nnx.state(module, nnx.BatchStat)),
    }


def test_a_network_trains_in_nnx_as_in_linen() -> None:
    @nnx.jit
    def make() -> Any:
        return nnx.bridge.ToNNX(NETWORK, rngs=nnx.Rngs(0)).lazy_init(IMAGES[:1], train=False)

    module = make()
    optimizer = nnx.Optimizer(module, optax.sgd(RATE), wrt=nnx.Param)

    @nnx.jit
    def step(module: Any, optimizer: Any) -> None:
        def loss(module: Any) -> jax.Array:
            return cross_entropy(module(IMAGES, train=True, mutable=["batch_stats"]))

        optimizer.update(module, nnx.grad(loss)(module))

    expected = linen_step(variables_of(module))
    step(module, optimizer)
    assert_close(variables_of(module), expected)
    logits = NETWORK.apply(variables_of(module), IMAGES, train=False)
    np.testing.assert_array_equal(module(IMAGES, train=False), logits)


class Classifier(eqx.Module):
    """A network as an Equinox module."""

    params: Any
    batch_stats: Any

    def __call__(self, images: Any) -> Any:
        variables = {"params": self.params, "batch_stats": self.batch_stats}
        return NETWORK.apply(variables, images, train=True, mutable=["batch_stats"])


def test_a_network_trains_in_equinox_as_in_linen(variables: Any) -> None:
    @eqx.filter_jit
    @eqx.filter_grad(has_aux=True)
    def gradient(classifier: Classifier) -> Any:
        logits, updates = classifier(IMAGES)
        return cross_entropy(logits), updates["batch_stats"]

    classifier = Classifier(**variables)
    grads, batch_stats = gradient(classifier)
    changed = eqx.apply_updates(classifier, jax.tree.map(lambda grad: -RATE * grad, grads))
    assert not any(np.any(grad) for grad in jax.tree.leaves(grads.batch_stats))
    assert_close({"params": changed.params, "batch_stats": batch_stats}, linen_step(variables))


# Prints the trees of checkpoints as in docs/interop.md, a line each: the shapes by path.
READ_CHECKPOINTS = """
import json, sys
import jax, numpy as np, orbax.checkpoint as ocp

for directory in sys.argv[1:]:
    with ocp.PyTreeCheckpointer() as reader:
        stored = reader.metadata(directory + "/state").item_metadata.tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), stored)
        state = reader.restore(directory + "/state", restore_args=as_numpy)
    items = ocp.args.Composite(progress=ocp.args.JsonRestore())
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        progress = reader.restore(directory, args=items).progress
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf
              for path, leaf in jax.tree.leaves_with_path(state)}
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves.values())
    assert "cnn_jax" not in sys.modules
    print(json.dumps([sorted(state), int(state["step"]), sorted(progress),
                      {path: leaf.shape for path, leaf in leaves.items()}]))
"""


def test_plain_orbax_reads_checkpoints_without_the_package() -> None:
    steps = {"mlp": 30, "resnet": 93}
    directories = [STORED / name / "checkpoints" / str(step) for name, step in steps.items()]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READ_CHECKPOINTS, *map(str, directories)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (name, step), line in zip(steps.items(), done.stdout.splitlines(), strict=True):
        items, stored_step, progress, shapes = json.loads(line)
        assert items == ["batch_stats", "opt_state", "params", "step"]
        assert stored_step == step
        assert progress == ["accuracy", "pending"]
        with np.load(STORED / f"{name}.npz") as expected:
            variables = {path: list(expected[path].shape) for path in expected}
        assert variables == {
            path: shape
            for path, shape in shapes.items()
            if not path.startswith(("opt_state", "step"))
        }


# Reads exported programs and calls them with two batch sizes. The arguments are files: an exported
# program, its inputs, and its results to write.
CALL_EXPORTED = """
import sys
import numpy as np
from jax import export

program, inputs, results = sys.argv[1:]
with open(program, "rb") as file:
    loaded = export.deserialize(file.read())
images = np.load(inputs)
np.savez(results, *(loaded.call(images[:count]) for count in (1, len(images))))
assert "cnn_jax" not in sys.modules
"""


def exported(function: Any) -> export.Exported:
    (batch,) = export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *IMAGES.shape[1:]), jnp.float32)
    program = export.export(jax.jit(function))(images)
    assert "@cnn_jax_" not in program.mlir_module()  # No native kernel is called.
    return program


def test_an_exported_network_runs_without_the_package(variables: Any, tmp_path: Path) -> None:
    def predict(images: Any) -> Any:
        return NETWORK.apply(variables, images, train=False)

    files = [tmp_path / name for name in ("program.bin", "images.npy", "logits.npz")]
    files[0].write_bytes(exported(predict).serialize())
    np.save(files[1], IMAGES)
    subprocess.run(
        [sys.executable, "-c", CALL_EXPORTED, *map(str, files)], cwd=tmp_path, check=True
    )
    expected = predict(IMAGES)
    with np.load(files[2]) as results:
        for logits in results.values():
            np.testing.assert_allclose(logits, expected[: len(logits)], rtol=1e-5)


def test_operations_and_gradients_are_exported_with_a_symbolic_batch() -> None:
    kernels = jnp.full((3, 3, 3, 4), 0.1), jnp.full((3, 3, 1, 4), 0.2), jnp.full((3, 3, 2, 4), 0.3)

    def value(images: jax.Array) -> jax.Array:
        x = images
        for kernel, groups in zip(kernels, (1, 4, 2), strict=True):
            x = ops.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
            x, _, _ = ops.batch_normalize(x, jnp.ones(4), jnp.zeros(4), 1e-3)
        x = ops.max_pool(x, (3, 3), (2, 2), "SAME")
        normalized = ops.local_response_norm(
            x, size=3, alpha=0.1, beta=0.5, k=1.0, divide_by_size=True
        )
        x = ops.avg_pool(normalized, (2, 2), (1, 1), "VALID")
        return jnp.sin(ops.global_avg_pool(ops.materialize(x))).sum()

    gradient = jax.grad(value)
    np.testing.assert_allclose(
        exported(gradient).call(IMAGES), jax.jit(gradient)(IMAGES), atol=1e-5
    )
