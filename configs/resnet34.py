"""ResNet-34 on ImageNet.

Source: He et al. 2015 (arXiv:1512.03385), section 3.4: batches of 256, SGD with momentum 0.9, rate
0.1 divided by 10 when the error stops falling, weight decay 1e-4, 60 x 10^4 steps (120 epochs). The
paper does not say after how many epochs; here, 5 epochs without improvement are tolerated. Scales
and biases of normalisation have no weight decay, as Goyal et al. 2017 (arXiv:1706.02677), section
5.1, report of this paper, which does not say it. The shifts of colours are AlexNet's, as in the
paper. Crops are torchvision's: 8 to 100 % of the area, ratio 3/4 to 4/3. The paper scales the
shorter side to a random 256 to 480 pixels and cuts 224x224 pixels at random. Evaluation crops the
central 224x224 pixels at a shorter side of 256. The second command evaluates with ten crops, as in
Table 3, and the third on whole images at five scales, as in Table 4.
Command: python -m cnn_jax.main --config=configs/resnet34.py --config.data.directory=DIR
  --workdir=RUN
Command: python -m cnn_jax.evaluate --workdir=RUN --views=ten_crops
Command: python -m cnn_jax.evaluate --workdir=RUN --views=multi_scale
Result: not yet run; the paper has 75.48 % top-1, 92.54 % top-5 with ten crops (Table 3, B).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "resnet34"
    config.data.augment = (("pca_colour", {"std": 0.1}),)
    config.optim.learning_rate = 0.1
    config.optim.weight_decay = 1e-4
    config.optim.decay = (r"\bkernel$", "^fc/bias$")
    config.optim.schedule.name = "plateau"
    config.optim.schedule.patience = 5
    config.train.batch_size = 256
    config.train.epochs = 120.0
    return base.finish(config, variant, smoke_image_size=32)
