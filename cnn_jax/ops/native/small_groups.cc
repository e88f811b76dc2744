// Outputs and input gradients of convolutions with small groups.

#include "small_groups.h"

#include "channelwise_gather.h"

namespace cnn_jax {
namespace channelwise {

// Exchanges inputs and outputs of each group: `kernel` [tap, input of the group, output] becomes
// [tap, output of the group, input].
template <int group>
void transpose_groups(const Convolution& conv, const float* kernel, float* transposed) {
  const Index channels = conv.output_channels();
  for (Index tap = 0; tap < conv.taps(); ++tap) {
    for (Index first = 0; first < channels; first += group) {
      for (int input = 0; input < group; ++input) {
        for (int output = 0; output < group; ++output) {
          transposed[(tap * group + output) * channels + first + input] =
              kernel[(tap * group + input) * channels + first + output];
        }
      }
    }
  }
}

}  // namespace channelwise

void small_groups_output(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* x,
                         const float* kernel, float* y) {
  channelwise::with_group(conv, [&](auto lanes, auto group) {
    channelwise::gather_outputs<lanes, group>(pool, conv, x, kernel, y);
  });
}

void small_groups_input_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                 const float* dy, const float* kernel, float* dx) {
  thread_local Scratch scratch;
  float* transposed = scratch.room<float>(conv.taps() * conv.inputs * conv.output_channels());
  channelwise::with_group(conv, [&](auto lanes, auto group) {
    channelwise::transpose_groups<group>(conv, kernel, transposed);
    channelwise::gather_input_gradient<lanes, group>(pool, conv, dy, transposed, dx);
  });
}

}  // namespace cnn_jax
