"""Every config is allowed, makes a network and an optimizer, and runs in its smoke variant."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from cnn_jax import main, objectives, optim, plan, train
from cnn_jax.contracts import Description
from tests import figures
from tests.main_command import CONFIGS, config, run
from tests.networks import NETWORKS

# In one process, so that its functions are compiled once.
pytestmark = pytest.mark.xdist_group("main")


@pytest.fixture(scope="module", autouse=True)
def without_figures() -> Iterator[None]:
    """Lets runs of this process draw no curves."""
    with figures.stand_in():
        yield


def smoke(name: str) -> ConfigDict:
    return importlib.import_module(f"configs.{name}").get_config("smoke")


def is_large(name: str) -> bool:
    """Returns True if compiling and running the config's network is slow."""
    return NETWORKS[smoke(name).model.name].is_large


# The large networks that are run: one for each optimizer and each way to compute the loss.
LARGE = ("googlenet", "mobilenetv2", "vit_small_patch16_224")
# Others, of which a process takes up to a minute.
LARGEST = ("inception_v3", "resnet34", "vgg16")

# Configs whose networks compile fast. The test of a whole run covers the quickstart.
FAST = ("lenet5_fashion_mnist",)
SMALL = [name for name in CONFIGS if not is_large(name) and name not in (*FAST, "quickstart")]


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL)]
)
def test_configs_run_in_their_smoke_variants(tmp_path: Path, same_process: None, name: str) -> None:
    assert main.main([config(name), f"--workdir={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE),
        *(pytest.param(name, marks=pytest.mark.full) for name in LARGEST),
    ],
)
def test_configs_of_large_networks_run_in_their_smoke_variants(tmp_path: Path, name: str) -> None:
    result = run(config(name), f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 0, result.stderr


def is_traced(name: str) -> bool:
    """Returns True if the check of the config traces a large network, for `optim.decay`."""
    return is_large(name) and bool(smoke(name).optim.decay)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * is_traced(name)) for name in CONFIGS],
)
def test_every_config_is_allowed(name: str) -> None:
    train.check(plan.read(smoke(name)))


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * is_large(name)) for name in CONFIGS],
)
def test_every_config_makes_a_network_and_an_optimizer_for_its_images(name: str) -> None:
    settings = plan.read(smoke(name))
    shape = settings.data.input_shape
    classes = tuple(map(str, range(10)))
    objective = objectives.make(settings, Description(classes, None, shape, (), ()))
    _, optimizer = optim.of_plan(settings.optim, 100, 10, batch_size=settings.train.batch_size)

    def start() -> Any:
        batch = objectives.init_batch(settings.data.input_shape)
        params, *_ = objective.init(jax.random.key(0), batch)
        return optimizer.init(params)

    assert jax.tree.leaves(jax.eval_shape(start))
