"""VGG as torchvision calls it: layers by their places, poolings and activations counted."""

from collections.abc import Iterator

from cnn_jax.models import vgg
from cnn_jax.pretrained.names import Names


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

NAMES = {
    name + suffix: Names(
        rules=(*_features(depths, bool(suffix)), *_CLASSIFIER), flattened={"fc6": 512}
    )
    for name, depths in vgg.DEPTHS.items()
    for suffix in ("", "_bn")
}
