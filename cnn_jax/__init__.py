"""cnn_jax: convolutional image classifiers in JAX and Flax, from LeNet-5 onwards."""

__version__ = "0.1.0"
