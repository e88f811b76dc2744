// Sums of each channel over all pixels.

#pragma once

#include <cstring>

#include "numbers.h"
#include "parallel.h"

namespace cnn_jax {

constexpr Index kSumRows = 8;  // Rows summed in registers before they are added to other sums.
constexpr Index kPartFloats = 1 << 16;  // Values of one part, unless this exceeds `kMostParts`.
constexpr Index kMostParts = 16;

inline float widen_one(float value) { return value; }
inline float widen_one(uint16_t value) {
  const uint32_t word = uint32_t{value} << 16;
  float wide;
  std::memcpy(&wide, &word, sizeof wide);
  return wide;
}

// Loads one channel if `Value` is `float`, and `kLanes` channels if it is `Vector`.
template <typename Value, typename Element>
Value load_channels(const Element* from) {
  if constexpr (std::is_same_v<Value, Vector>) {
    return widen(from);
  } else {
    return widen_one(*from);
  }
}

inline void store_channels(float* to, Vector values) { store(to, values); }
inline void store_channels(float* to, float value) { *to = value; }

// Calls `task(zero, c)` for vectors of channels that start at `c`, and for each of the channels
// that are left. The type of `zero` is `Vector` or `float`.
template <typename Task>
void for_channels(Index channels, const Task& task) {
  Index c = 0;
  for (; c + kLanes <= channels; c += kLanes) task(Vector{}, c);
  for (; c < channels; ++c) task(0.0f, c);
}

// Number of parts that [rows, channels] is summed in, at least one. It depends only on the size, so
// that rounding does not depend on the threads.
inline Index sum_parts(Index rows, Index channels) {
  return std::clamp<Index>(ceil_div(rows, kSumRows), 1,
                           std::clamp<Index>(rows * channels / kPartFloats, 1, kMostParts));
}

// Calls `task(row, count)` for successive blocks of `count` rows of a part, at most `kSumRows`.
template <typename Task>
void for_blocks(Index rows, Index parts, Index part, const Task& task) {
  const Index end = part_start(rows, parts, part + 1);
  for (Index row = part_start(rows, parts, part); row < end; row += kSumRows) {
    task(row, std::min(kSumRows, end - row));
  }
}

// Adds the rows of `x` to `sums[0]` and those of `x (y - centre)` to `sums[1]`. `x` and `y` are
// [rows, channels], `centre` is [channels], `sums` is [2, channels].
template <typename Element>
void add_rows(const Element* x, const Element* y, const float* centre, Index rows, Index channels,
              float* sums) {
  for_channels(channels, [&](auto zero, Index c) {
    using Value = decltype(zero);
    const Value middle = load_channels<Value>(centre + c);
    Value sum = zero, products = zero;
    for (Index row = 0; row < rows; ++row) {
      const Value value = load_channels<Value>(x + row * channels + c);
      sum += value;
      products += value * (load_channels<Value>(y + row * channels + c) - middle);
    }
    float* const own = sums + c;
    store_channels(own, load_channels<Value>(own) + sum);
    store_channels(own + channels, load_channels<Value>(own + channels) + products);
  });
}

// Computes the sums of `x` and of `x (y - centre)` [rows, channels] over all rows: `sums`
// [2, channels]. Without rows, they are zeros.
template <typename Element>
void channel_sums(xla::ffi::ThreadPool& pool, const Element* x, const Element* y,
                  const float* centre, Index rows, Index channels, float* sums) {
  if (channels == 0) return;
  static thread_local Scratch scratch;
  const Index parts = sum_parts(rows, channels);
  float* const all = scratch.room<float>(parts * 2 * channels);
  parallel_for(pool, parts, [&](Index part) {
    float* const own = all + part * 2 * channels;
    std::memset(own, 0, 2 * channels * sizeof(float));
    for_blocks(rows, parts, part, [&](Index row, Index count) {
      add_rows(x + row * channels, y + row * channels, centre, count, channels, own);
    });
  });
  std::memcpy(sums, all, 2 * channels * sizeof(float));
  for (Index part = 1; part < parts; ++part) {
    for (Index i = 0; i < 2 * channels; ++i) sums[i] += all[part * 2 * channels + i];
  }
}

}  // namespace cnn_jax
