"""VGG as torchvision calls it: layers by their places, poolings and activations counted.

In timm the first two dense layers are convolutions, and the last is `head.fc`.
"""

from collections.abc import Iterator

from cnn_jax.models import vgg
from cnn_jax.pretrained.families.names import Names


def _features(depths: tuple[int, ...], batch_norm: bool) -> Iterator[tuple[str, str]]:
    """A rule for each convolution and each normalisation."""
    place = 0
    for stage, depth in enumerate(depths, 1):
        for index in range(1, depth + 1):
            yield f"^conv{stage}_{index}$", f"features.{place}"
            if batch_norm:
                yield f"^bn{stage}_{index}$", f"features.{place + 1}"
            place += 3 if batch_norm else 2  # with the activation
        place += 1  # the pooling


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
