// Sums of each channel over all pixels.

#pragma once

#include <cstring>

#include "numbers.h"
#include "parallel.h"

namespace cnn_jax {

constexpr Index kSumRows = 8;        // Rows summed in registers before they are added to `sums`.
constexpr Index kPartFloats = 1 << 16;  // Values of one part, unless this exceeds `kMostParts`.
constexpr Index kMostParts = 16;

inline float widen_one(float value) { return value; }
inline float widen_one(uint16_t value) {
  const uint32_t word = uint32_t{value} << 16;
  float wide;
  std::memcpy(&wide, &word, sizeof wide);
  return wide;
}

// Adds the rows of `x` to `sums[0]` and those of `x y` to `sums[1]`. `x` and `y` are
// [rows, channels], `sums` is [2, channels].
template <typename Element>
void add_rows(const Element* x, const Element* y, Index rows, Index channels, float* sums) {
  Index c = 0;
  for (; c + kLanes <= channels; c += kLanes) {
    Vector sum = {}, products = {};
    for (Index row = 0; row < rows; ++row) {
      const Vector value = widen(x + row * channels + c);
      sum += value;
      products += value * widen(y + row * channels + c);
    }
    store(sums + c, load(sums + c) + sum);
    store(sums + channels + c, load(sums + channels + c) + products);
  }
  for (; c < channels; ++c) {
    for (Index row = 0; row < rows; ++row) {
      const float value = widen_one(x[row * channels + c]);
      sums[c] += value;
      sums[channels + c] += value * widen_one(y[row * channels + c]);
    }
  }
}

// Computes the sums of `x` and of `x y` [rows, channels] over all rows: `sums` [2, channels]. The
// number of parts depends only on the size, so that rounding does not depend on the threads.
template <typename Element>
void channel_sums(xla::ffi::ThreadPool& pool, const Element* x, const Element* y, Index rows,
                  Index channels, float* sums) {
  static thread_local Scratch scratch;
  const Index parts = std::min({std::max<Index>(rows * channels / kPartFloats, 1), kMostParts,
                                ceil_div(rows, kSumRows)});
  float* const all = scratch.room<float>(parts * 2 * channels);
  parallel_for(pool, parts, [&](Index part) {
    float* const own = all + part * 2 * channels;
    std::memset(own, 0, 2 * channels * sizeof(float));
    const Index end = part_start(rows, parts, part + 1);
    for (Index row = part_start(rows, parts, part); row < end; row += kSumRows) {
      add_rows(x + row * channels, y + row * channels, std::min(kSumRows, end - row), channels,
               own);
    }
  });
  std::memcpy(sums, all, 2 * channels * sizeof(float));
  for (Index part = 1; part < parts; ++part) {
    for (Index i = 0; i < 2 * channels; ++i) sums[i] += all[part * 2 * channels + i];
  }
}

}  // namespace cnn_jax
