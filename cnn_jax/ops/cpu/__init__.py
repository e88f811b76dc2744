"""CPU lowerings of `cnn_jax.ops`, composed of the XLA operations that are fast on a CPU.

XLA:CPU is fast at matrix products, elementwise sums and dense forward convolutions. It is slower,
by up to a factor of several hundred, at other convolutions and at scatters. The modules express the
slow operations by fast ones. `experiments/cpu_speed` has the measurements behind each choice.

- `conv.py`: selects a module for a convolution and its gradients, from static shapes.
- `dense.py`: convolutions without groups; selects one of several algorithms.
- `banded.py`: small images with few channels, by banded matrices.
- `ynnpack.py`: XLA's dense convolution, with workarounds.
- `phases.py`: input gradients of strided convolutions.
- `depthwise.py`: convolutions of single channels.
- `grouped.py`: other grouped convolutions.
- `pool.py`: maximum and sum of windows, and their gradients.
- `matmul.py`: matrix products over channels or pixels.
- `views.py`: padding, shifted views and im2col.
"""
