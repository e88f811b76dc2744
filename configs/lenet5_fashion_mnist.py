"""LeNet-5 of 1998 on Fashion-MNIST: sparse C3, trainable subsampling, distances to codes.

Source: LeCun et al. 1998 (doi:10.1109/5.726791) for the network, its initial weights and its loss.
The optimizer is ours; the paper uses a stochastic Levenberg-Marquardt method.
Command: python -m cnn_jax.main --config=configs/lenet5_fashion_mnist.py
Result: test top-1 89.86 %, top-5 98.15 %, loss 3.5266 with seed 0, the final parameters, in 163 s
of processor time while other work shared the machine;
params_sha256 b6927a549a0975bd2e4fff4ca83a595e545b5aacae2157bad650d669bd466691. The loss is the
cross-entropy of the distances. With 0.1.0 on an Intel Xeon (AVX-512): 90.08 %. The rate was chosen
there by validation accuracy: 90.02 % with 0.002, 90.16 % with 0.005.
Measured with cnn_jax 0.2.0 (commit a900f5f) on 2 cores of an AMD EPYC (Zen 4), Python 3.11.7, JAX
0.10.2, Flax 0.12.8. The digest holds for the same versions and machine.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    """Returns the config, or its variant 'smoke'."""
    config = base.fashion_mnist()
    config.model.name = "lenet5"
    config.optim.learning_rate = 0.005
    config.optim.schedule.name = "cosine"
    config.optim.schedule.warmup_epochs = 1.0
    config.optim.schedule.warmup_first_step = 0  # As in the run that was measured.
    config.loss.name = "distance"
    config.train.epochs = 20.0
    config.train.steps_per_call = 8
    return base.finish(config, variant)
