// Kernel gradients of convolutions with small groups. A separate file compiles in parallel.

#include "channelwise_kernel_gradient.h"
#include "small_groups.h"

namespace cnn_jax {

void small_groups_kernel_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                  const float* x, const float* dy, float* dkernel) {
  channelwise::with_group(conv, [&](auto lanes, auto group) {
    channelwise::correlate<lanes, group>(pool, conv, x, dy, dkernel);
  });
}

}  // namespace cnn_jax
