// Grouped convolutions whose groups are so small that a vector of channels has several of them.

#pragma once

#include "channelwise_gather.h"
#include "channelwise_kernel_gradient.h"

namespace cnn_jax {

inline bool small_groups_covers(const Convolution& conv) {
  return conv.inputs == conv.outputs && kLanes % conv.inputs == 0 && conv.inputs <= 8;
}

namespace channelwise {

// Calls `body` with the lanes of the vectors and the channels of a group, as constants.
template <typename Body>
void with_group(const Convolution& conv, const Body& body) {
  const auto with = [&](auto group) {
    with_lanes<group>(conv, [&](auto lanes) { body(lanes, group); });
  };
  if (conv.inputs == 1) return with(Constant<1>());
  if (conv.inputs == 2) return with(Constant<2>());
  if (conv.inputs == 4) return with(Constant<4>());
  if constexpr (kLanes >= 8) with(Constant<8>());
}

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

inline void small_groups_output(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                const float* x, const float* kernel, float* y) {
  channelwise::with_group(conv, [&](auto lanes, auto group) {
    channelwise::gather_outputs<lanes, group>(pool, conv, x, kernel, y);
  });
}

inline void small_groups_input_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                        const float* dy, const float* kernel, float* dx) {
  thread_local Scratch scratch;
  float* transposed = scratch.floats(conv.taps() * conv.inputs * conv.output_channels());
  channelwise::with_group(conv, [&](auto lanes, auto group) {
    channelwise::transpose_groups<group>(conv, kernel, transposed);
    channelwise::gather_input_gradient<lanes, group>(pool, conv, dy, transposed, dx);
  });
}

inline void small_groups_kernel_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                                         const float* x, const float* dy, float* dkernel) {
  channelwise::with_group(conv, [&](auto lanes, auto group) {
    channelwise::correlate<lanes, group>(pool, conv, x, dy, dkernel);
  });
}

}  // namespace cnn_jax
