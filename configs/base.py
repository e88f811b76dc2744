"""The defaults of every config. The other configs start from here and set only what differs.

  python -m cnn_jax.main --config=configs/NAME.py [--workdir=DIR] [--config.SECTION.KEY=VALUE ...]

`cnn_jax/sections` has every key with its type, default, range and comment.
`--config=configs/NAME.py:smoke` runs any config for a few steps on tiny generated images.
"""

from ml_collections import ConfigDict

from cnn_jax import errors, plan


def get_config() -> ConfigDict:
    """Returns the defaults. Only the section `model` accepts new keys: the network's options."""
    return plan.config(plan.Plan())


def fashion_mnist(image_size: int = 32) -> ConfigDict:
    """Returns the defaults for Fashion-MNIST; 5,000 of its training images are for validation."""
    config = get_config()
    config.data.update(
        source="idx",
        name="fashion_mnist",
        train_split="train[:55000]",
        validation_split="train[55000:]",
        image_size=image_size,
    )
    return config


def imagenet(image_size: int) -> ConfigDict:
    """Returns the defaults for ImageNet: crops of random size and shape, mirrored at random.

    `data.directory` is an image folder, packed shards, or TFDS's data directory. The last percent
    of the training images is for validation; ImageNet's validation images are the test split.
    """
    config = get_config()
    config.data.update(
        source="auto",
        name="imagenet2012:5.1.0",
        train_split="train[:99%]",
        validation_split="train[99%:]",
        test_split="validation",
        image_size=image_size,
        channels=3,
        resize="bilinear",
        train_crop="random_resized",
        eval_crop="centre",
        flip=True,
    )
    return config


def finish(config: ConfigDict, variant: str, smoke_image_size: int = 0) -> ConfigDict:
    """Returns the config itself, or its variant 'smoke': a few steps on generated images.

    Args:
      config: the complete config.
      variant: the text after the colon on the command line: empty or 'smoke'.
      smoke_image_size: height and width for 'smoke', near the smallest that the network takes;
        0 for those of the config.

    Raises:
      UserError: an unknown variant.
    """
    if variant not in ("", "smoke"):
        raise errors.unknown("variant of the config", variant, ["smoke"])
    if variant == "smoke":
        config.data.update(
            source="fake",
            name="",
            directory="",
            train_split="train[:75%]",
            validation_split="train[75%:]",
            test_split="test",
            split="",
            classes="",
            shorter_side=0,
            workers=0,
        )
        if smoke_image_size:
            config.data.update(image_size=smoke_image_size, image_width=0, eval_image_size=0)
        config.train.update(batch_size=8, steps=4)
        config.optim.schedule.update(
            warmup_epochs=0.0,
            warmup="linear",
            warmup_factor=0.0,
            decay_from="warmup",
            boundary_epochs=(),
        )
        config.eval.batch_size = 8
        config.log.every_steps = 2
    return config
