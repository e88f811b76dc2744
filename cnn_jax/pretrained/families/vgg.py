"""Rename tables of VGG, for torchvision and for timm.

Torchvision names layers by their position in a Sequential, which also counts poolings, activations
and dropout. In timm the first two dense layers are convolutions, and the last is `head.fc`.
"""

from collections.abc import Iterator

from cnn_jax.models import vgg
from cnn_jax.pretrained.families.names import Names


def _features(depths: tuple[int, ...], batch_norm: bool) -> Iterator[tuple[str, str]]:
    """Yields a rule for each convolution and each normalisation of the five stages.

    Args:
      depths: the number of convolutions in each stage.
      batch_norm: whether a batch normalisation follows each convolution.
    """
    position = 0
    for stage, depth in enumerate(depths, 1):
        for index in range(1, depth + 1):
            yield f"^conv{stage}_{index}$", f"features.{position}"
            if batch_norm:
                yield f"^bn{stage}_{index}$", f"features.{position + 1}"
            position += 3 if batch_norm else 2  # includes the activation
        position += 1  # the pooling


_CLASSIFIER = (("^fc6$", "classifier.0"), ("^fc7$", "classifier.3"), ("^fc8$", "classifier.6"))
_TIMM = (("^fc6$", "pre_logits.fc1"), ("^fc7$", "pre_logits.fc2"), ("^fc8$", "head.fc"))
_FEATURES = {
    name + suffix: tuple(_features(depths, bool(suffix)))
    for name, depths in vgg.DEPTHS.items()
    for suffix in ("", "_bn")
}

NAMES = {
    name: Names(rules=(*features, *_CLASSIFIER), flattened={"fc6": 512})
    for name, features in _FEATURES.items()
}
TIMM_NAMES = {
    name: Names(rules=(*features, *_TIMM), convolved={"fc6": 7, "fc7": 1})
    for name, features in _FEATURES.items()
}
