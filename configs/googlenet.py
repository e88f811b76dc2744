"""GoogLeNet on ImageNet.

Source: Szegedy et al. 2014 (arXiv:1409.4842), sections 5 and 6: momentum 0.9, a rate that decays by
4 % every 8 epochs, auxiliary losses weighted by 0.3, evaluation of an average of the parameters.
The paper gives no rate, batch size, weight decay or length; 0.01, 32, 2e-4 and 250 epochs are from
bvlc_googlenet's solver, which decays in steps, too. The average's decay of 0.9999 is Inception
v3's. Crops are the paper's: 8 to 100 % of the area, ratio 3/4 to 4/3. Evaluation crops the central
224x224 pixels at a shorter side of 256. The paper draws the interpolation at random; here it is
bilinear. Its photometric distortions have no stated strengths; they are missing here.
Command: python -m cnn_jax.main --config=configs/googlenet.py --config.data.directory=DIR
Result: not yet run; the Caffe model's page quotes 68.7 % top-1, 88.9 % top-5, one crop, after 60
epochs of another schedule.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.imagenet(image_size=224)
    config.model.name = "googlenet"
    config.optim.learning_rate = 0.01
    config.optim.weight_decay = 2e-4
    config.optim.schedule.name = "exponential"
    config.optim.schedule.decay_epochs = 8.0
    config.optim.schedule.decay_factor = 0.96
    config.optim.schedule.staircase = True
    config.train.batch_size = 32
    config.train.epochs = 250.0
    config.loss.auxiliary_weight = 0.3
    config.ema.decay = 0.9999
    config.eval.weights = "average"
    return base.finish(config, variant, smoke_image_size=47)
