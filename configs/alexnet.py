"""AlexNet on ImageNet.

Source: Krizhevsky et al. 2012 (doi:10.1145/3065386), sections 4 and 5: momentum 0.9, coupled weight
decay 5e-4, batches of 128, rate 0.01 and about 90 epochs. The rate is divided by 10 when the
validation error stops falling, three times in all. The paper does not say after how many epochs;
here, 5 epochs without improvement are tolerated. The shorter side is scaled to 256 pixels, and
227x227 pixels are cut at random. The paper says 224x224; 227 fits its 55x55 outputs of the first
layer, as in Caffe. The paper first cuts the central 256x256 pixels. The interpolation is not stated
by the source; bilinear is torchvision's default. Colours vary along the principal components of the
training set, with a standard deviation of 0.1. Biases have no weight decay, as in the author's
cuda-convnet. The paper subtracts the mean only; here pixels are divided by the standard deviation,
too. Validation takes the central crop; the second command evaluates with ten crops, as section 4.1
does. They come from the whole scaled image, and those of the paper from its central square.
Command: python -m cnn_jax.main --config=configs/alexnet.py --config.data.directory=DIR
  --workdir=RUN
Command: python -m cnn_jax.evaluate --workdir=RUN --views=ten_crops
Result: not yet run; the paper's Table 2 gives 59.3 % top-1, 81.8 % top-5 for one network.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=227)
    config.model.name = "alexnet"
    config.data.train_crop = "random"
    config.data.shorter_side = 256
    config.data.augment = (("pca_colour", {"std": 0.1}),)
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 5e-4
    config.optim.schedule.name = "plateau"
    config.optim.schedule.patience = 5
    config.optim.schedule.end_factor = 1e-3
    config.train.batch_size = 128
    config.train.epochs = 90.0
    return base.finish(config, variant, smoke_image_size=67)
