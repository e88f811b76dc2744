"""How fast this machine runs the parts of the package: `python -m cnn_jax.benchmark --help`."""
