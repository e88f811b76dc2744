"""Kernels of our own for the CPU, in C++, compiled on the machine that runs them.

`library` compiles and loads them, `conv` has those of convolutions. Where there is no compiler,
`cnn_jax.ops.cpu` does the same out of XLA's operations.
"""
