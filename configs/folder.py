"""Any folder of pictures, with a folder for each class: a small ResNet at 64x64 pixels.

`data.directory` holds one folder per class, or `train`, `validation` and `test` with a folder per
class in each. Without stored splits, 80 % of the pictures are for training, 10 % for validation and
10 % for the test.

Source: He et al. 2015 (arXiv:1512.03385) for the network; the recipe is ours.
Command: python -m cnn_jax.main --config=configs/folder.py --config.data.directory=DIR
Result: depends on the pictures; `configs/openclipart.py` is an example that was run in full.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.get_config()
    config.model.name = "resnet18"
    config.data.update(
        source="auto",
        train_split="auto",
        validation_split="auto",
        test_split="auto",
        image_size=64,
        channels=3,
        resize="bilinear",
        crop_padding=4,
        flip=True,
    )
    config.optim.learning_rate = 0.05
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.batch_size = 32
    config.train.epochs = 30.0
    return base.finish(config, variant, smoke_image_size=32)
