"""What `cnn_jax.ops` lowers to on a CPU, out of what XLA does well there.

XLA:CPU is fast at matrix products, at elementwise sums and at dense forward convolutions, and
slow, by up to a factor of several hundred, at the other convolutions and at scatters. So each
operation is brought to the fast ones. `experiments/cpu_speed` has the measurements behind each
rule.
"""
