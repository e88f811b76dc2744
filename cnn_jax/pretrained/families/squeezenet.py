"""SqueezeNet as torchvision calls it: layers by their places, poolings counted."""

from cnn_jax.pretrained.families.names import Names


def _names(places: tuple[int, ...]) -> Names:
    """With the places of fire2 to fire9."""
    fires = ((rf"^fire{number}\b", f"features.{place}") for number, place in enumerate(places, 2))
    return Names(
        rules=(
            ("^conv1$", "features.0"),
            ("^conv10$", "classifier.1"),
            *fires,
            (r"\.squeeze1x1$", ".squeeze"),
        )
    )


NAMES = {
    "squeezenet1_0": _names((3, 4, 5, 7, 8, 9, 10, 12)),
    "squeezenet1_1": _names((3, 4, 6, 7, 9, 10, 11, 12)),
}
