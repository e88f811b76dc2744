"""Benchmarks of operations and networks on this machine: `python -m cnn_jax.benchmark --help`."""
