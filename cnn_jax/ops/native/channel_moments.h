// Mean and variance of each channel over all pixels.
//
// The first pixel is subtracted from all pixels, and the moments of blocks of rows are combined by
// the formulas of Chan, Golub & LeVeque 1983. No step subtracts two large sums, and one pass
// suffices. The relative error of the variance is at most about `s k u`: `u` is 2^-24, `s` is the
// number of successive additions to a sum, about rows / (kSumRows kMostParts) if the images are
// large, and `k^2` is 1 + (mean - first pixel)^2 / variance. `k` does not exceed sqrt(1 + rows),
// because the first pixel alone contributes (mean - first pixel)^2 / rows to the variance. The
// mean is summed by Kahan's algorithm: its error, times the sum of a gradient, is an error of the
// gradient.

#pragma once

#include <limits>

#include "channel_sums.h"

namespace cnn_jax {

constexpr Index kMomentRows = 3;  // Running moments are [kMomentRows, channels].

// Running moments of one channel if `Value` is `float`, and of `kLanes` channels if it is `Vector`.
template <typename Value>
struct Moments {
  Value mean;
  Value squares;  // Sum of squared deviations from `mean`.
  Value excess;   // `mean` minus the unrounded mean (Kahan summation).

  static Moments load(const float* from, Index channels) {
    return {load_channels<Value>(from), load_channels<Value>(from + channels),
            load_channels<Value>(from + 2 * channels)};
  }
  void store(float* to, Index channels) const {
    store_channels(to, mean);
    store_channels(to + channels, squares);
    store_channels(to + 2 * channels, excess);
  }
};

// Adds moments of `rows` rows to those of `before` rows.
template <typename Value>
Moments<Value> combine(const Moments<Value>& all, Index before, Value mean, Value squares,
                       Index rows) {
  const float share = float(rows) / float(before + rows);
  const Value difference = mean - all.mean;
  const Value step = difference * share - all.excess;
  const Value moved = all.mean + step;
  return {moved, all.squares + squares + difference * difference * (float(before) * share),
          (moved - all.mean) - step};
}

// Adds the `rows` rows of `x - first` to `moments` of `before` rows. `x` is [rows, channels],
// `first` is [channels]. If `rows` is a `Constant`, the rows stay in registers.
template <typename Element, typename Rows>
void add_moments(const Element* x, const Element* first, Index before, Rows rows, Index channels,
                 float* moments) {
  const float reciprocal = 1.0f / float(Index{rows});
  for_channels(channels, [&](auto zero, Index c) {
    using Value = decltype(zero);
    const Value shift = load_channels<Value>(first + c);
    const auto shifted = [&](Index row) {
      return load_channels<Value>(x + row * channels + c) - shift;
    };
    Value mean = zero, squares = zero;
    for (Index row = 0; row < rows; ++row) mean += shifted(row);
    mean *= reciprocal;
    for (Index row = 0; row < rows; ++row) {
      const Value deviation = shifted(row) - mean;
      squares += deviation * deviation;
    }
    const auto all = Moments<Value>::load(moments + c, channels);
    combine(all, before, mean, squares, Index{rows}).store(moments + c, channels);
  });
}

// Computes mean and biased variance of `x` [rows, channels] over all rows: `result` [2, channels].
// Without rows, they are NaN.
template <typename Element>
void channel_moments(xla::ffi::ThreadPool& pool, const Element* x, Index rows, Index channels,
                     float* result) {
  if (channels == 0) return;
  if (rows == 0) {
    std::fill_n(result, 2 * channels, std::numeric_limits<float>::quiet_NaN());
    return;
  }
  static thread_local Scratch scratch;
  const Index parts = sum_parts(rows, channels);
  float* const all = scratch.room<float>(parts * kMomentRows * channels);
  parallel_for(pool, parts, [&](Index part) {
    float* const own = all + part * kMomentRows * channels;
    std::memset(own, 0, kMomentRows * channels * sizeof(float));
    const Index start = part_start(rows, parts, part);
    for_blocks(rows, parts, part, [&](Index row, Index count) {
      const Element* const block = x + row * channels;
      if (count == kSumRows) {
        add_moments(block, x, row - start, Constant<kSumRows>(), channels, own);
      } else {
        add_moments(block, x, row - start, count, channels, own);
      }
    });
  });
  for_channels(channels, [&](auto zero, Index c) {
    using Value = decltype(zero);
    auto sum = Moments<Value>::load(all + c, channels);
    for (Index part = 1; part < parts; ++part) {
      const auto own = Moments<Value>::load(all + part * kMomentRows * channels + c, channels);
      const Index start = part_start(rows, parts, part);
      sum = combine(sum, start, own.mean, own.squares, part_start(rows, parts, part + 1) - start);
    }
    store_channels(result + c, load_channels<Value>(x + c) + (sum.mean - sum.excess));
    store_channels(result + channels + c, sum.squares / float(rows));
  });
}

}  // namespace cnn_jax
