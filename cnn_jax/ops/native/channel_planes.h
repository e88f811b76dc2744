// Affine functions of two images, with separate coefficients for each channel.

#pragma once

#include "channel_sums.h"

namespace cnn_jax {

// Computes `planes[0] + planes[1] x + planes[2] (y - planes[3])` at each of `rows` pixels. `planes`
// is [4, channels]; `x`, `y` and `result` are [rows, channels].
template <typename Number>
void channel_planes(xla::ffi::ThreadPool& pool, const float* planes,
                    const typename Number::Element* x, const typename Number::Element* y,
                    Index rows, Index channels, typename Number::Element* result) {
  if (rows == 0 || channels == 0) return;
  const Index parts = std::clamp<Index>(rows * channels / kPartFloats, 1, rows);
  parallel_for(pool, parts, [&](Index part) {
    const Index end = part_start(rows, parts, part + 1) * channels;
    for (Index at = part_start(rows, parts, part) * channels; at < end; at += channels) {
      for (Index c = 0; c < channels; c += kLanes) {
        const Index count = channels - c;
        const auto plane = [&](Index i) { return read(planes + i * channels + c, count); };
        write<Number>(result + at + c, count,
                      plane(0) + plane(1) * read(x + at + c, count) +
                          plane(2) * (read(y + at + c, count) - plane(3)));
      }
    }
  });
}

}  // namespace cnn_jax
