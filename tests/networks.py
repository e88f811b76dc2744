"""Every registered network: what the contract tests in test_models.py hold it to."""

from typing import NamedTuple


class Network(NamedTuple):
    """What is known of a network.

    Attributes:
      parameters: trainable, for images of `models.input_shape(name)`.
      num_classes: for so many classes.
      smallest: the smallest height and width that it takes; one pixel less is an error.
      size: height and width of the images for the tests that compute, small to be quick.
    """

    parameters: int
    num_classes: int
    smallest: int
    size: int


NETWORKS = {
    # 28 * 28 * 10 + 10.
    "logistic_regression": Network(7_850, 10, 1, 28),
    # 28 * 28 * 256 + 256 + 256 * 10 + 10.
    "mlp": Network(203_530, 10, 1, 28),
    # LeCun et al. 1998, Fig. 2, with dense C3 and output: 156 + 2,416 + 48,120 + 10,164 + 850.
    "lenet": Network(61_706, 10, 16, 32),
    # Géron 2022, chapter 14, model.summary() of the book's notebook.
    "fashion_cnn": Network(1_413_834, 10, 8, 28),
}
