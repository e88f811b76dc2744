"""Every key there is, with its default. The other configs start from here and only override.

  python -m cnn_jax.main --config=configs/NAME.py [--workdir=DIR] [--config.SECTION.KEY=VALUE ...]

`--config=configs/NAME.py:smoke` runs any of them for a few steps on tiny made-up images.
"""

from ml_collections import ConfigDict

from cnn_jax import errors


def get_config() -> ConfigDict:
    """The defaults; keys cannot be added, but for the options of the network in `model`."""
    config = ConfigDict()
    config.seed = 0  # of initial parameters, order, augmentation and dropout
    config.compilation_cache = True  # keep compiled programs in ~/.cache/cnn_jax, for the next run

    config.model = model = ConfigDict()
    model.name = "lenet"  # one of cnn_jax.models.names()
    model.dtype = "float32"  # what the network computes in: float32 or bfloat16
    # Any other key is an option of the network, such as activation or dropout_rate.

    config.data = data = ConfigDict()
    data.source = "digits"  # digits, idx (MNIST's format), tfds, or fake
    data.name = ""  # idx: mnist, fashion_mnist, kmnist or empty; tfds: such as 'mnist:3.0.1'
    data.directory = ""  # where the files are; empty for the source's usual place
    data.train_split = "train[:90%]"
    data.validation_split = "train[90%:]"  # held out to choose by; empty for none
    data.test_split = "test"  # empty for none
    data.image_size = 32  # height and width of the network's input, in pixels
    data.channels = 1  # 1 grey, 3 colour; images of the other kind are converted
    data.resize = "pad"  # pad with black, or scale: bilinear, bicubic
    data.crop_padding = 0  # pixels of padding for the random crop of training images; 0 for none
    data.flip = False  # mirror training images at random

    config.optim = optim = ConfigDict()
    optim.name = "sgd"  # sgd, rmsprop, adam, adamw
    optim.learning_rate = 0.1  # the peak, after the warm-up
    optim.momentum = 0.9  # sgd, rmsprop; 0 for none
    optim.nesterov = False  # sgd, rmsprop
    optim.b1 = 0.9  # adam, adamw: decay of the first moment
    optim.b2 = 0.999  # adam, adamw: decay of the second moment
    optim.rms_decay = 0.9  # rmsprop: decay of the second moment
    optim.eps = 1e-8  # rmsprop, adam, adamw
    optim.weight_decay = 0.0  # not on biases and normalisation scales
    optim.weight_decay_kind = "coupled"  # coupled: L2 in the gradient; decoupled: as in AdamW
    optim.clip_norm = 0.0  # largest norm of the gradient; 0 for no limit
    optim.schedule = schedule = ConfigDict()
    schedule.name = "constant"  # constant, step, cosine, exponential
    schedule.warmup_epochs = 0.0  # linear, from 0
    schedule.boundary_epochs = ()  # step: where the rate is multiplied by decay_factor
    schedule.decay_epochs = 1.0  # exponential: epochs per decay_factor
    schedule.decay_factor = 0.1  # step, exponential

    config.train = train = ConfigDict()
    train.batch_size = 128  # over all devices
    train.epochs = 10.0  # length of the run
    train.steps = 0  # length of the run in steps instead, if not 0
    train.loss = "cross_entropy"  # or distance: LeNet-5's, for negative distances as logits
    train.label_smoothing = 0.0  # cross_entropy
    train.auxiliary_weight = 0.3  # of each auxiliary head's loss, where the network has such heads
    train.steps_per_call = 1  # sent to the devices at once; 8 pays off below some 20 ms a step

    config.eval = evaluation = ConfigDict()
    evaluation.every_epochs = 1.0  # validation; also at the end of the run
    evaluation.batch_size = 512  # over all devices; any size gives the same counts

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 500  # also after every validation, and at the end of the run
    checkpoint.keep = 2  # the newest so many, and the best by validation

    config.log = log = ConfigDict()
    log.every_steps = 50  # lines of metrics.jsonl for the training split

    config.lock()
    model.unlock()
    return config


def fashion_mnist(image_size: int = 32) -> ConfigDict:
    """The defaults, with Fashion-MNIST, 5,000 of its training images held out."""
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
    """The defaults, with ImageNet's data: images of `image_size` pixels, mirrored at random."""
    config = get_config()
    config.data.update(
        source="tfds",
        name="imagenet2012:5.1.0",
        train_split="train[:99%]",
        validation_split="train[99%:]",
        test_split="validation",
        image_size=image_size,
        channels=3,
        resize="bilinear",
        flip=True,
    )
    return config


def finish(config: ConfigDict, variant: str, smoke_image_size: int = 0) -> ConfigDict:
    """What a config file returns: the config itself, or its variant 'smoke'.

    Args:
      config: complete.
      variant: what follows the colon on the command line: empty or 'smoke'.
      smoke_image_size: height and width for 'smoke', near the smallest that the network takes;
        those of the config if 0.

    Raises:
      ValueError: another variant.
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
        )
        if smoke_image_size:
            config.data.image_size = smoke_image_size
        config.train.update(batch_size=8, steps=4)
        config.optim.schedule.update(warmup_epochs=0.0, boundary_epochs=())
        config.eval.batch_size = 8
        config.log.every_steps = 2
    return config
