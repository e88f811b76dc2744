"""WRN-28-10 with dropout on CIFAR-10.

Source: Zagoruyko & Komodakis 2016 (arXiv:1605.07146), section 3, and the authors' code
(`scripts/train_cifar.sh`). SGD has Nesterov momentum and a rate of 0.1, divided by 5 after epochs
60, 120 and 160 of 200; the code divides one epoch earlier. Weight decay is 5e-4, in the code on
every parameter. Batches have 128 images, and dropout is 0.3. Images are flipped at random, and
cropped at random after padding by four pixels with reflections. The paper has no validation set.
Command: python -m cnn_jax.main --config=configs/wrn_28_10.py
Result: not yet run; the paper's median of five runs is 3.89 % error, 4.00 % without dropout.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.name = "wrn_28_10"
    config.model.dropout_rate = 0.3
    config.data.update(
        source="tfds",
        name="cifar10:3.0.2",
        train_split="train",
        validation_split="",
        channels=3,
        flip=True,
        augment=(("random_crop", {"padding": 4, "mode": "reflect"}),),
    )
    config.optim.learning_rate = 0.1
    config.optim.nesterov = True
    config.optim.weight_decay = 5e-4
    config.optim.decay = (".*",)
    config.optim.schedule.name = "step"
    config.optim.schedule.boundary_epochs = (60.0, 120.0, 160.0)
    config.optim.schedule.decay_factor = 0.2
    config.train.batch_size = 128
    config.train.epochs = 200.0
    return base.finish(config, variant)
