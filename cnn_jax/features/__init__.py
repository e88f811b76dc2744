"""Features of pictures by a trained network, for classifiers of other libraries.

    from cnn_jax import features, predictor
    found = features.of_folder(predictor.load("runs/lenet"), "pictures")
    found.features, found.labels, found.names  # [N, D], [N], N paths

- `pictures.py`: the pictures of a folder, or of a split of a source, with names and labels
- `computing.py`: `compute`, which runs the network on them batch by batch
- `storing.py`: the .npz file that they are written to
"""

import os

from cnn_jax.contracts import Source
from cnn_jax.features.computing import Features, compute
from cnn_jax.features.pictures import Pictures, in_folder, in_source
from cnn_jax.features.storing import check_out, write
from cnn_jax.predictor import Predictor

__all__ = [
    "Features",
    "Pictures",
    "check_out",
    "compute",
    "in_folder",
    "in_source",
    "of_folder",
    "of_source",
    "write",
]


def of_folder(
    network: Predictor,
    directory: str | os.PathLike[str],
    split: str = "",
    *,
    stage: str | None = None,
    pool: bool = True,
    labels: bool = True,
) -> Features:
    """Returns the features of all pictures below a folder.

    Args:
      network: of a run or of published weights; see `predictor.load`.
      directory: a folder of class folders, with or without splits, or a flat folder; see
        `in_folder`.
      split: the split, or a slice of one; see `in_folder`.
      stage: an endpoint of the network; by default its embedding; see `compute`.
      pool: False for feature maps, without the mean over height and width; see `compute`.
      labels: False to read all pictures without labels; see `in_folder`.

    Raises:
      UserError: see `in_folder` and `compute`.
    """
    return compute(network, in_folder(directory, split, labels=labels), stage=stage, pool=pool)


def of_source(
    network: Predictor,
    source: Source,
    split: str,
    *,
    stage: str | None = None,
    pool: bool = True,
) -> Features:
    """Returns the features of a split of any source, such as `data.open_source` returns.

    Args:
      network: of a run or of published weights; its classes may differ from those of the source.
      source: the data set.
      split: a stored split, or a slice of one, such as 'train[:50%]'.
      stage: an endpoint of the network; by default its embedding; see `compute`.
      pool: False for feature maps, without the mean over height and width; see `compute`.

    Raises:
      UserError: there is no such split; see also `compute`.
    """
    return compute(network, in_source(source, split), stage=stage, pool=pool)
