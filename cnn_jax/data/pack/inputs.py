"""Opens the directory that is packed."""

import os

from cnn_jax import plan
from cnn_jax.contracts import Source
from cnn_jax.data.pack import imagenet_tars
from cnn_jax.data.sources import open_source


def open_input(directory: str | os.PathLike[str]) -> Source:
    """Opens ImageNet's official archives or another data set of a directory.

    Args:
      directory: the directory; other data sets than the archives are those that `data.source`
        'auto' finds.

    Raises:
      UserError: the directory holds no data set, or a file is missing or damaged.
    """
    if imagenet_tars.is_in(directory):
        return imagenet_tars.source(directory)
    return open_source(plan.Data(source="auto", directory=str(directory)))
