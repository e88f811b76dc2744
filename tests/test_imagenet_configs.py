"""Configs of ImageNet on a small folder of its shape."""

from pathlib import Path

import pytest

from cnn_jax import config_files, plan, train
from cnn_jax.runs import logs
from configs import base
from tests import imagenet_shaped

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path.stem for path in (ROOT / "configs").glob("*.py") if "base.imagenet(" in path.read_text()
)


def settings(name: str) -> plan.Plan:
    return plan.read(config_files.load(str(ROOT / "configs" / f"{name}.py")))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_crops_need_the_original_pixels(name: str) -> None:
    keys = settings(name).data
    assert keys.train_crop in ("random_resized", "random")
    assert keys.eval_crop == "centre"
    assert keys.source == plan.read(base.imagenet(224)).data.source == "auto"


# Networks that compile in seconds, and others, which take minutes.
SMALL = ("nin", "shufflenet_v2", "squeezenet1_1")
RECIPES = (
    *("alexnet", "alexnet_owt", "convnext_tiny", "densenet121", "efficientnet_b0"),
    *("inception_v3", "mobilenetv2", "mobilenetv3_large", "resnet34", "resnet50", "resnet50_a1"),
    *("resnet50_a2", "resnet50_a3", "resnet50_torchvision_v1", "resnet50_torchvision_v2"),
    *("swin_tiny", "vgg16", "vit_small_patch16_224"),
)


@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow) for name in SMALL),
        *(pytest.param(name, marks=pytest.mark.full) for name in RECIPES),
    ],
)
def test_a_config_trains_with_directory_batch_size_and_steps_alone(
    name: str, tmp_path: Path
) -> None:
    imagenet_shaped.make(tmp_path / "images")
    changes = {
        "data.directory": str(tmp_path / "images"),
        "train.batch_size": "4",
        "train.steps": "2",
    }
    outcome = train.run(
        config_files.override(settings(name), changes), tmp_path / "run", progress=False
    )
    assert outcome.step == 2
    rows = {row["split"]: row for row in logs.read(tmp_path / "run")}
    assert set(rows) == {"train", "validation", "test", "final"}
    assert rows["train"]["loss"] > 0
    stored = plan.stored((tmp_path / "run" / "config.json").read_text())
    assert (stored.data.source, stored.data.storage) == ("folder", "streamed")
