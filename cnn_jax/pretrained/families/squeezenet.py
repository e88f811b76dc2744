"""Rename tables of SqueezeNet, for torchvision.

Torchvision names layers by their position in a Sequential, which also counts poolings,
activations and dropout.
"""

from cnn_jax.pretrained.families.names import Names


def _names(positions: tuple[int, ...]) -> Names:
    """Returns the rename table, given the positions of fire2 to fire9 in `features`."""
    fires = (
        (rf"^fire{number}\b", f"features.{position}")
        for number, position in enumerate(positions, 2)
    )
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
