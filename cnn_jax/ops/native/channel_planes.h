// Planes over two images, one for each channel.

#pragma once

#include <cstring>

#include "channel_sums.h"
#include "numbers.h"

namespace cnn_jax {

// One vector's `planes[0] + planes[1] x + planes[2] y`; the three lie `pitch` floats apart.
template <typename Number>
void add_plane(const float* planes, Index pitch, const typename Number::Element* x,
               const typename Number::Element* y, typename Number::Element* result) {
  Number::put(result, load(planes) + load(planes + pitch) * widen(x) +
                          load(planes + 2 * pitch) * widen(y));
}

// The same for fewer channels than a vector has.
template <typename Number>
void add_short_plane(const float* planes, Index channels, const typename Number::Element* x,
                     const typename Number::Element* y, typename Number::Element* result) {
  using Element = typename Number::Element;
  float all_planes[3 * kLanes] = {};
  Element all_x[kLanes] = {}, all_y[kLanes] = {}, all[kLanes];
  for (Index i = 0; i < 3; ++i) {
    std::memcpy(all_planes + i * kLanes, planes + i * channels, channels * sizeof(float));
  }
  std::memcpy(all_x, x, channels * sizeof(Element));
  std::memcpy(all_y, y, channels * sizeof(Element));
  add_plane<Number>(all_planes, kLanes, all_x, all_y, all);
  std::memcpy(result, all, channels * sizeof(Element));
}

// `planes[0] + planes[1] x + planes[2] y` at each of `rows` pixels: `planes` is [3, channels], the
// others are [rows, channels].
template <typename Number>
void channel_planes(xla::ffi::ThreadPool& pool, const float* planes,
                    const typename Number::Element* x, const typename Number::Element* y,
                    Index rows, Index channels, typename Number::Element* result) {
  const Index parts = std::clamp<Index>(rows * channels / kPartFloats, 1, rows);
  parallel_for(pool, parts, [&](Index part) {
    const Index end = part_start(rows, parts, part + 1) * channels;
    for (Index at = part_start(rows, parts, part) * channels; at < end; at += channels) {
      if (channels < kLanes) {
        add_short_plane<Number>(planes, channels, x + at, y + at, result + at);
        continue;
      }
      for (Index c = 0; c < channels; c += kLanes) {
        const Index channel = std::min(c, channels - kLanes);  // The last ones may come twice.
        add_plane<Number>(planes + channel, channels, x + at + channel, y + at + channel,
                          result + at + channel);
      }
    }
  });
}

}  // namespace cnn_jax
