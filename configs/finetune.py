"""Any network with weights on a folder of pictures: all of it is trained for a few epochs.

`init.weights` names the weights: a file, timm's NETWORK.TAG on the Hub, or a work directory. The
network, the size of its input, the interpolation, the evaluation crop, mean and deviation are those
of the weights. `data.directory` is as in `configs/folder.py`; without stored splits, each class is
divided 80 : 10 : 10.

For pictures whose mirror image is another class, such as letters, add --config.data.flip=False. To
train the head alone, add --config.train.trainable=head --config.optim.learning_rate=0.1.

Source: Kolesnikov et al. 2019 (arXiv:1912.11370, BiT-HyperRule) for SGD with momentum and a small
rate, random crops and mirroring; the recipe is ours.
Command: python -m cnn_jax.main --config=configs/finetune.py --config.data.directory=DIR
  --config.init.weights=WEIGHTS
Result: depends on pictures and weights.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke', a small network without weights."""
    config = base.get_config()
    config.model.name = ""
    config.data.update(
        source="auto",
        train_split="auto",
        validation_split="auto",
        test_split="auto",
        split="auto",
        image_size=0,
        channels=0,
        resize="",
        train_crop="random_resized",
        crop_scale=(0.25, 1.0),
        eval_crop="",
        flip=True,
    )
    config.optim.learning_rate = 0.01
    config.optim.clip_norm = 1.0
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.train.batch_size = 32
    config.train.epochs = 10.0
    config.eval.batch_size = 64
    if variant:
        config.model.name = "resnet20"
        config.data.channels = 3
    return base.finish(config, variant, smoke_image_size=32)
