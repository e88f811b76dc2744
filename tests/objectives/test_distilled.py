"""Tests of learning from a teacher; tests/golden/test_losses.py has its losses."""

import dataclasses
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import data, errors, losses, objectives, plan, predictor, train
from cnn_jax.contracts import Carried, Objective, TrainState
from cnn_jax.objectives import Classification, Distilled, Teacher, distilled
from cnn_jax.runs import checkpoint, workdir
from cnn_jax.runtime.signals import Interruption
from cnn_jax.train import job, state
from tests import toys

# In one process, so that its runs share their programs.
pytestmark = [pytest.mark.xdist_group("distilled"), pytest.mark.usefixtures("shared_programs")]

RNG = np.random.default_rng(0)
LABELS = np.arange(32) % 4
IMAGES = RNG.integers(0, 256, (32, 8, 8, 1), dtype=np.uint8)
SOURCE = data.from_arrays({"train": (IMAGES, LABELS)}, ["a", "b", "c", "d"])
DISTILL = plan.read({"distill": {"temperature": 2.0, "weight": 0.25}}).distill


def test_the_teacher_is_in_evaluation_mode_and_sees_images_of_its_own_kind() -> None:
    network = toys.Noisy()
    image = np.asarray(RNG.normal(size=(4, 4, 4, 1)), np.float32)
    variables = filled(network, image)
    given = objectives.Classification(network, toys.CROSS_ENTROPY)
    student = Classification(toys.Dense((10,)), distilled.add(toys.CROSS_ENTROPY, DISTILL))
    teacher = Teacher(given.predict, variables, scale=(2.0,), shift=(-0.5,))
    objective = Distilled(student, teacher)
    batch: Any = {"image": image, "label": jnp.array([0, 9, 1, 3]), "weight": jnp.ones(4)}
    init = {"teacher": variables}
    init |= filled(student.model, image)
    params, stats, extra = objective.init(jax.random.key(1), batch, init)
    jax.tree.map(np.testing.assert_array_equal, extra["teacher"], variables)
    carried = Carried(jnp.int32(0), stats, {**extra, "other": jnp.ones(())})
    value, (new, _) = jax.jit(objective.loss)(params, carried, batch, jax.random.key(2))

    def by_hand() -> jax.Array:
        wanted: Any = network.apply(variables, 2 * image - 0.5, train=False)
        own = {"params": params, "batch_stats": stats}
        logits, _ = student.model.apply(own, image, train=True, mutable=["batch_stats"])
        hard = losses.cross_entropy(logits, batch["label"])
        return (0.75 * hard + 0.25 * losses.divergence(logits, wanted, 2.0)).mean()

    np.testing.assert_allclose(value, jax.jit(by_hand)(), rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, new.extra, carried.extra)


def filled(network: Any, image: np.ndarray) -> dict[str, Any]:
    """Returns random variables of a network."""
    shapes = jax.eval_shape(lambda key: network.init(key, image, train=False), jax.random.key(0))
    return dict(
        jax.tree.map(lambda leaf: np.asarray(RNG.uniform(0.1, 1, leaf.shape), leaf.dtype), shapes)
    )


def test_zeros_stand_for_the_teacher_where_only_shapes_count() -> None:
    shapes = {"params": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    inner = Classification(toys.Dense(), toys.CROSS_ENTROPY)
    objective = Distilled(inner, Teacher(inner.predict, shapes, (1.0,), (0.0,)))
    *_, extra = jax.eval_shape(objective.init, jax.random.key(0), objectives.init_batch((2, 2, 1)))
    assert extra == {"teacher": shapes}


def test_the_order_of_wrappers_is_fixed_and_no_key_has_two_writers() -> None:
    inner = Classification(toys.Dense((5, 3)), distilled.add(toys.CROSS_ENTROPY, DISTILL))
    teacher_network = Classification(toys.Dense((3,)), toys.CROSS_ENTROPY)
    batch = objectives.init_batch((2, 2, 1))
    shapes = jax.eval_shape(teacher_network.init, jax.random.key(0), batch)
    teacher = Teacher(
        teacher_network.predict, {"params": shapes[0], "batch_stats": shapes[1]}, (1.0,), (0.0,)
    )
    options = plan.read({"train.trainable": "Dense_1", "ema.decay": 0.5})
    layers: list[Any] = [objectives.wrap(inner, options, (2, 2, 1), teacher)]
    while hasattr(layers[-1], "inner"):
        layers.append(layers[-1].inner)
    assert [type(layer).__name__ for layer in layers] == [
        *("Averaged", "Distilled", "Frozen", "Classification")
    ]
    written = [_keys(layer) for layer in layers]
    assert written[0] == {"average", "teacher"}
    own = [outer - inside for outer, inside in zip(written, [*written[1:], set()], strict=True)]
    assert own == [{"average"}, {"teacher"}, set(), set()]
    params, stats, extra = jax.eval_shape(layers[0].init, jax.random.key(0), batch)
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    after = jax.eval_shape(layers[0].after, TrainState(step, params, stats, (), extra))
    assert after.keys() == {"average"}  # The teacher stays as it is.


def _keys(objective: Objective) -> set[str]:
    """Returns the keys of `extra` that an objective and those inside of it make."""
    batch = objectives.init_batch((2, 2, 1))
    *_, extra = jax.eval_shape(objective.init, jax.random.key(0), batch)
    return set(extra)


def config(**changes: Any) -> plan.Plan:
    values = {
        "model.name": "tests.toys:Normalised",
        "data.image_size": 8,
        "data.train_split": "train",
        "data.validation_split": "",
        "data.test_split": "",
        "optim.learning_rate": 0.05,
        "train.batch_size": 8,
        "train.steps": 6,
        "train.steps_per_call": 2,
        "checkpoint.every_steps": 2,
    }
    return plan.read({**values, **changes})


def run(directory: Path | None, **changes: Any) -> train.Outcome:
    return train.run(config(**changes), directory, source=SOURCE, progress=False)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a teacher with another normalisation; it keeps an average."""
    directory = tmp_path_factory.mktemp("teacher") / "run"
    changes = {"data.mean": (0.25,), "data.std": (0.5,)}
    run(directory, **changes, **{"train.steps": 2, "ema.decay": 0.5, "eval.weights": "average"})
    return directory


def last(directory: Path, teacher: Path) -> TrainState:
    """Returns the state of the last checkpoint of a student."""
    parts = job.make(config(**{"distill.teacher": str(teacher)}), SOURCE)
    like = state.abstract(parts.objective, parts.optimizer, (8, 8, 1), parts.layout)
    restored: TrainState = checkpoint.restore(directory / workdir.CHECKPOINTS, 6, like).state
    return restored


@pytest.fixture(scope="module")
def student(taught: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work directory of a run that learns from the teacher only."""
    directory = tmp_path_factory.mktemp("student") / "run"
    run(directory, **{"distill.teacher": str(taught)})
    return directory


@pytest.mark.slow
def test_a_run_holds_its_teacher_in_every_checkpoint(taught: Path, student: Path) -> None:
    found = last(student, taught).extra["teacher"]
    jax.tree.map(np.testing.assert_array_equal, found, predictor.restore(taught).variables)


@pytest.mark.slow
def test_a_stopped_run_continues_with_the_teacher_that_it_began_with(
    taught: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(taught, tmp_path / "teacher")
    changes = {"distill.teacher": str(copy)}
    with monkeypatch.context() as patch:
        patch.setattr(Interruption, "requested", lambda self: True)
        assert run(tmp_path / "run", **changes).step == 2
    shutil.rmtree(copy / workdir.CHECKPOINTS)  # Its checkpoints are not needed any more.
    run(tmp_path / "run", **changes)
    ends = (last(directory, taught) for directory in (tmp_path / "run", student))
    jax.tree.map(np.testing.assert_array_equal, *ends)
    shutil.rmtree(copy)  # Prediction needs nothing of the teacher.
    assert predictor.load(tmp_path / "run")(IMAGES[:2]).logits.shape == (2, 4)


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A work directory without checkpoints; none is read before the run starts."""
    parts = job.make(config(), SOURCE)
    directory = tmp_path / "teacher"
    directory.mkdir()
    workdir.save_plan(directory, parts.plan)
    workdir.save_description(directory, parts.feed.description)
    return directory


def test_a_network_with_a_teacher_can_be_pickled(described: Path) -> None:
    parts = job.make(config(**{"distill.teacher": str(described)}), SOURCE)
    assert isinstance(parts.objective, Distilled)
    pickle.loads(pickle.dumps(parts.objective.predict))  # A predictor holds it.


def renamed(directory: Path) -> None:
    description = workdir.load_description(directory)
    names = tuple(reversed(description.class_names))
    workdir.save_description(directory, dataclasses.replace(description, class_names=names))


def resized(directory: Path) -> None:
    description = workdir.load_description(directory)
    shape = (8, 6, 1)
    workdir.save_description(directory, dataclasses.replace(description, input_shape=shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "distill.teacher '.*teacher': .*teacher is not a work directory"),
        (renamed, r"distill.teacher '.*teacher': the data set has other classes than the network"),
        (resized, r"was trained on images of 8x6x1, and this run has 8x8x1 .* set data.image_size"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    described: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    change(described)
    with pytest.raises(errors.UserError, match=message):
        run(tmp_path / "run", **{"distill.teacher": str(described)})
    assert not (tmp_path / "run").exists()


def test_a_given_objective_has_no_teacher() -> None:
    given = Classification(toys.Dense((4,)), toys.CROSS_ENTROPY)
    keys = {name: value for name, value in plan.flatten(config()).items() if "model" not in name}
    message = r"distill.teacher '.*' has no effect beside train.run\(objective=...\)"
    with pytest.raises(errors.UserError, match=message):
        train.run({**keys, "distill.teacher": "teacher"}, source=SOURCE, objective=given)
