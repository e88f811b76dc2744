"""Predictors: a trained network together with the preprocessing of its images.

    classifier = predictor.load("runs/lenet")  # or published weights: a file, a name on the Hub
    logits, probabilities = classifier("photo.jpg")  # [K] each; [N, K] for N images
    classifier.top("photo.jpg", 5)  # pairs of class name and probability

- `predicting.py`: `Predictor`, the calls on images
- `pictures.py`: the images that a user may pass: one or many, as arrays, files or PIL images
- `opening.py`: `load`, `restore`, `describe` and `of_parts`, which open a run or make a predictor
- `from_flags.py`: the predictor that the flags of a command name
- `folders.py`: the predictions of many image files, and the file that they are written to
"""

from cnn_jax.predictor.opening import Restored, describe, load, of_parts, restore
from cnn_jax.predictor.predicting import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "Restored", "describe", "load", "of_parts", "restore"]
