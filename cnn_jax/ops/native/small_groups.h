// Grouped convolutions with groups so small that a vector of channels holds several groups.

#pragma once

#include "geometry.h"
#include "parallel.h"

namespace cnn_jax {

// Returns true if there are kernels for the group size. Size 1 is a depthwise convolution.
inline bool small_groups_covers(const Convolution& conv) {
  const Index size = conv.inputs;
  return size == conv.outputs && (size == 1 || size == 4 || (size == 8 && kLanes >= 8));
}

void small_groups_output(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* x,
                         const float* kernel, float* y);

void small_groups_input_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                 const float* dy, const float* kernel, float* dx);

void small_groups_kernel_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                  const float* x, const float* dy, float* dkernel);

}  // namespace cnn_jax
