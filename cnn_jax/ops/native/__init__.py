"""C++ kernels for CPUs, compiled on the machine that runs them and called through `jax.ffi`.

Without a C++ compiler, `cnn_jax.ops.cpu` computes the same results with XLA operations.

Python:

- `library.py`: caches, checks and loads the compiled kernels.
- `build.py`: compiles them.
- `conv.py`, `pool.py`, `channels.py`: call the kernels of the module with that name in `ops`.
- `geometry.py`: encodes an axis as an attribute of a call.

C++:

- `bindings.cc`: XLA FFI handlers, the functions that XLA calls.
- `dense.h`, `gather.h`: convolutions and their input gradients.
- `kernel_gradient.h`: kernel gradients of convolutions.
- `small_groups.h`, `small_groups*.cc`, `channelwise*.h`: convolutions with 1, 4 or 8 channels in a
  group.
- `max_pool.h`, `channel_moments.h`, `channel_sums.h`, `channel_planes.h`: kernels of `pool.py` and
  `channels.py`.
- `geometry.h`, `numbers.h`, `vector.h`, `parallel.h`: code shared by the kernels.
"""
