"""Trains on arrays in memory and predicts."""

from sklearn.datasets import load_digits

from cnn_jax import data, train

digits = load_digits()
images = (digits.images / 16).astype("float32")  # [1797, 8, 8], in [0, 1]
source = data.from_arrays(
    {"train": (images[:1500], digits.target[:1500]), "test": (images[1500:], digits.target[1500:])}
)
config = {
    "model": {"name": "mlp", "widths": (64,)},
    "data": {"image_size": 0, "channels": 0},  # those of the arrays
    "train": {"batch_size": 50, "epochs": 10.0},
    "optim": {"learning_rate": 0.05},
}
outcome = train.run(config, source=source)
print(f"test accuracy {outcome.test['top1']:.3f}")
prediction = outcome.predictor(images[1500])
print(f"the first test image is a {prediction.probabilities.argmax()}")
