"""Tests of optimizers of users, with Optax's."""

import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from cnn_jax import errors, optim, plan

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("optim")

PARAMS = {
    "hidden": {"kernel": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "bias": jnp.asarray([0.5, -0.25])}
}


def rate(step: Any) -> Any:
    return 0.1 / (1 + step)


def labels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "rest" if path[-1].key == "bias" else "kernels", params
    )


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(rate),
    "adam": lambda: optax.adam(rate),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adam)(learning_rate=rate),
    "reduce_on_plateau": lambda: optax.chain(optax.sgd(rate), contrib.reduce_on_plateau()),
    "schedule_free": lambda: contrib.schedule_free(optax.sgd(rate), rate),
    "multi_steps": lambda: optax.MultiSteps(optax.adam(rate), 2).gradient_transformation(),
    "partition": lambda: optax.partition(
        {"rest": optax.sgd(rate), "kernels": optax.adam(rate)}, labels
    ),
    "prodigy": contrib.prodigy,
    "momo": contrib.momo,
    "muon": lambda: contrib.muon(rate),
    "polyak_sgd": optax.polyak_sgd,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_of_optax_fits_the_training_step(name: str) -> None:
    optim.check(optim.fit(OPTIMIZERS[name]()), PARAMS)


@pytest.mark.parametrize("name", ["sgd", "reduce_on_plateau", "momo", "polyak_sgd"])
def test_the_update_is_the_optimizers_own_with_the_loss_where_it_reads_it(name: str) -> None:
    given = OPTIMIZERS[name]()
    fitted = optim.fit(given)
    state = given.init(PARAMS)
    expected = optax.with_extra_args_support(given).update(PARAMS, state, PARAMS, value=2.0)
    result = fitted.update(PARAMS, fitted.init(PARAMS), PARAMS, learning_rate=9.0, value=2.0)
    jax.tree.map(np.testing.assert_array_equal, result, expected)


def test_an_optimizer_of_this_package_keeps_its_own_rate() -> None:
    fitted = optim.fit(optim.make(name="sgd", learning_rate=0.5))
    updates, _ = fitted.update(PARAMS, fitted.init(PARAMS), PARAMS, learning_rate=9.0, value=1.0)
    jax.tree.map(
        lambda ours, leaf: np.testing.assert_array_equal(ours, -0.5 * leaf), updates, PARAMS
    )


@pytest.mark.parametrize(
    "make",
    [
        optax.lbfgs,
        lambda: optax.chain(optax.sgd(0.1), optax.scale_by_backtracking_linesearch(5)),
        lambda: contrib.sam(optax.sgd(0.1), optax.sgd(0.05)),
        lambda: contrib.sophia(0.1),
    ],
)
@pytest.mark.filterwarnings("ignore:Specifying a key will be required:UserWarning")
def test_an_optimizer_that_computes_losses_itself_is_refused(make: Any) -> None:
    with pytest.raises(errors.UserError, match=r"does not fit .*lbfgs, line searches") as caught:
        optim.fit(make())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.1, "must be an optax.GradientTransformation, got an object of type float"),
        (optax.sgd, "of type function"),
        (optax.MultiSteps(optax.sgd(0.1), 2), r"of its method gradient_transformation\(\)"),
    ],
)
def test_other_objects_are_refused(given: Any, message: str) -> None:
    with pytest.raises(errors.UserError, match=message):
        optim.fit(given)


def test_an_optimizer_for_other_parameters_is_refused_with_those_of_the_run() -> None:
    by_layer = optax.partition({"a": optax.sgd(0.1)}, {"output": {"kernel": "a", "bias": "a"}})
    fitted = optim.fit(by_layer)
    optim.check(fitted, {"output": PARAMS["hidden"]})
    with pytest.raises(errors.UserError, match="the optimizer does not fit"):
        optim.check(fitted, PARAMS)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module of a user."""
    result = types.ModuleType("users_optimizers")
    monkeypatch.setitem(sys.modules, result.__name__, result)
    vars(result).update(
        scaled=lambda schedule, scale=1.0: optax.sgd(lambda step: scale * schedule(step)),
        of_its_own_rate=lambda schedule, rate: optax.sgd(rate),
        broken=lambda schedule: optax.sgd("fast").update({}, {}),
        no_optimizer=lambda schedule: 3,
        second_order=optax.lbfgs,
        number=4,
    )
    return result


def of_plan(**changes: Any) -> tuple[optim.Schedule | None, Any]:
    options = plan.read({f"optim.{path}": value for path, value in changes.items()}).optim
    return optim.of_plan(options, total_steps=10, steps_per_epoch=2, batch_size=8)


def first_update(optimizer: Any, learning_rate: float) -> float:
    params = {"kernel": jnp.ones(())}
    updates, _ = optimizer.update(
        params, optimizer.init(params), params, learning_rate=learning_rate, value=1.0
    )
    return float(updates["kernel"])


def test_a_name_of_the_package_takes_the_rate_of_the_step() -> None:
    schedule, optimizer = of_plan(name="sgd", learning_rate=0.5, momentum=0.0, clip_norm=0.25)
    assert schedule is not None
    assert schedule(0, np) == 0.5
    assert first_update(optimizer, learning_rate=2.0) == -0.5


def test_an_optimizer_of_a_user_reads_the_schedule(module: types.ModuleType) -> None:
    given = {"name": "users_optimizers:scaled", "options.scale": 4.0, "learning_rate": 0.5}
    schedule, optimizer = of_plan(**given, **{"schedule.name": "cosine"})
    assert schedule is not None
    assert schedule(5, np) == 0.25
    assert first_update(optimizer, learning_rate=7.0) == -2.0


def test_an_optimizer_of_optax_can_be_named() -> None:
    _, optimizer = of_plan(name="optax:lion", learning_rate=0.5, **{"options.b1": 0.5})
    assert first_update(optimizer, learning_rate=7.0) < 0


def test_a_run_without_the_schedule_has_no_rates(module: types.ModuleType) -> None:
    name = "users_optimizers:of_its_own_rate"
    schedule, optimizer = of_plan(name=name, **{"options.rate": 0.25})
    assert schedule is None
    assert first_update(optimizer, learning_rate=7.0) == -0.25


def test_a_run_of_an_earlier_version_may_have_the_values_of_that_version(
    module: types.ModuleType,
) -> None:
    before = {path: key.before for path, key in plan.keys().items() if path.startswith("optim.")}
    assert before["optim.decay"]
    name = "users_optimizers:of_its_own_rate"
    options = plan.read({**before, "optim.name": name, "optim.options": {"rate": 0.25}}).optim
    schedule, _ = optim.of_plan(options, total_steps=10, steps_per_epoch=2, batch_size=8)
    assert schedule is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sdg"}, "unknown optimizer 'sdg'; did you mean 'sgd'.*module:attribute"),
        ({"name": "sgd", "options.rho": 1}, "optim.options .*'rho': 1.* are for an optimizer"),
        ({"name": "users_optimizers:none"}, "has no attribute 'none'"),
        ({"name": "users_optimizers:number"}, "must be a function of .schedule.; got .* int"),
        ({"options.size": 1}, r"must be a function of \(schedule, size=\); .*'size'"),
        ({"name": "users_optimizers:broken"}, "cannot be built from optim.options {}: "),
        ({"name": "users_optimizers:no_optimizer"}, "must be an optax.GradientTransf.* type int"),
        ({"name": "users_optimizers:second_order"}, "second_order' does not fit the training step"),
        ({"momentum": 0.5, "clip_norm": 1.0}, "does not read optim.momentum, optim.clip_norm; "),
        ({"weight_decay_kind": "coupled"}, "does not read optim.weight_decay_kind; "),
        ({"decay": ("kernel",)}, "does not read optim.decay; "),
        (
            {
                "name": "users_optimizers:of_its_own_rate",
                "options.rate": 1.0,
                "learning_rate": 0.2,
                "schedule.name": "cosine",
            },
            "does not read optim.learning_rate, optim.schedule.name; ",
        ),
    ],
)
def test_a_mistake_in_a_plan_is_refused(
    module: types.ModuleType, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(errors.UserError, match=message):
        of_plan(**{"name": "users_optimizers:scaled", **changes})
