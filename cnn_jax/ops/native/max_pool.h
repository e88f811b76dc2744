// Maximum of each window, and its gradient, which goes to the first pixel with the maximum.

#pragma once

#include <cstring>
#include <limits>

#include "geometry.h"
#include "numbers.h"
#include "parallel.h"

namespace cnn_jax {

constexpr Index kPoolFloats = 1 << 16;  // Values of a task, to stay in a core's cache.

// Pooling of images [batch, rows.size, columns.size, channels]. Padding is ignored.
struct Pooling {
  Index batch;
  Axis rows;
  Axis columns;
  Index channels;

  Index inputs() const { return rows.size * columns.size * channels; }
  Index outputs() const { return rows.output() * columns.output() * channels; }
};

// The taps [begin, end) through which output `place` reads the image.
inline Range taps_within(const Axis& axis, Index place) {
  const Index first = axis.stride * place - axis.low;
  const Index begin = std::clamp<Index>(-first, 0, axis.kernel);
  return {begin, std::clamp<Index>(axis.size - first, begin, axis.kernel)};
}

// The outputs [begin, end) that read any of the inputs `places`.
inline Range outputs_meeting(const Axis& axis, Range places) {
  const Index before = count_places(0, places.begin + axis.low - axis.kernel + 1, axis.stride);
  return {before, std::min(axis.output(), count_places(0, places.end + axis.low, axis.stride))};
}

using Lanes = decltype(Vector() > Vector());  // A true lane has all bits set.

// Returns true in lanes where `value` is greater or NaN, so that the maximum propagates NaN.
inline Lanes exceeds(Vector value, Vector largest) { return (value > largest) | (value != value); }

// Window of one output: the taps that read the image, and the position of tap (0, 0) in the image.
struct Window {
  Range down;
  Range across;
  Index top;
  Index left;
  Index columns;  // Columns of the window.
};

inline Window window_of(const Pooling& pool, Index row, Index column) {
  return {taps_within(pool.rows, row), taps_within(pool.columns, column),
          pool.rows.stride * row - pool.rows.low, pool.columns.stride * column - pool.columns.low,
          pool.columns.kernel};
}

// Calls `body` with each tap of the window in the image, and the row and column of its input.
template <typename Body>
[[gnu::always_inline]] inline void for_taps(const Window& window, const Body& body) {
  for (Index i = window.down.begin; i < window.down.end; ++i) {
    for (Index j = window.across.begin; j < window.across.end; ++j) {
      body(static_cast<int32_t>(i * window.columns + j), window.top + i, window.left + j);
    }
  }
}

template <typename Number>
void max_pool(xla::ffi::ThreadPool& threads, const Pooling& pool,
              const typename Number::Element* x, typename Number::Element* y) {
  const Index height = pool.rows.output(), width = pool.columns.output();
  const Index channels = pool.channels;
  parallel_for(threads, pool.batch * height, [&](Index task) {
    const auto* const image = x + task / height * pool.inputs();
    auto* const line = y + task * width * channels;
    for (Index q = 0; q < width; ++q) {
      const Window window = window_of(pool, task % height, q);
      for (Index c = 0; c < channels; c += kLanes) {
        Vector largest = Vector{} - std::numeric_limits<float>::infinity();
        for_taps(window, [&](int32_t, Index row, Index column) {
          const Vector value = read(image + (row * pool.columns.size + column) * channels + c,
                                    channels - c);
          largest = exceeds(value, largest) ? value : largest;
        });
        write<Number>(line + q * channels + c, channels - c, largest);
      }
    }
  });
}

// Adds the gradients of one row of outputs to `sums` [rows, columns, pitch], the sums of the image
// rows in `band`.
template <typename Element>
void add_row_gradients(const Pooling& pool, const Element* x, const Element* dy, Index row,
                       Range band, Index pitch, float* sums) {
  const Index channels = pool.channels;
  for (Index q = 0; q < pool.columns.output(); ++q) {
    const Window window = window_of(pool, row, q);
    for (Index c = 0; c < channels; c += kLanes) {
      Vector largest = Vector{} - std::numeric_limits<float>::infinity();
      Lanes winner = Lanes{} - 1;
      for_taps(window, [&](int32_t tap, Index source, Index column) {
        const Vector value = read(x + (source * pool.columns.size + column) * channels + c,
                                  channels - c);
        // The first tap always replaces the initial value, even if it is -infinity.
        const Lanes wins = exceeds(value, largest) | (winner < 0);
        largest = wins ? value : largest;
        winner = wins ? Lanes{} + tap : winner;
      });
      const Vector gradient = read(dy + q * channels + c, channels - c);
      for_taps(window, [&](int32_t tap, Index source, Index column) {
        if (source < band.begin || source >= band.end) return;
        float* const sum = sums + ((source - band.begin) * pool.columns.size + column) * pitch + c;
        store(sum, load(sum) + (winner == tap ? gradient : Vector{}));
      });
    }
  }
}

template <typename Number>
void max_pool_gradient(xla::ffi::ThreadPool& threads, const Pooling& pool,
                       const typename Number::Element* dy, const typename Number::Element* x,
                       typename Number::Element* dx) {
  const Index height = pool.rows.size, width = pool.columns.size, channels = pool.channels;
  const Index pitch = ceil_div(channels, kLanes) * kLanes, line = width * pitch;
  const Index output_line = pool.columns.output() * channels;
  const Index parts = std::clamp<Index>(height * line / kPoolFloats, 1, height);
  parallel_for(threads, pool.batch * parts, [&](Index task) {
    static thread_local Scratch scratch;
    const Index image = task / parts, part = task % parts;
    const Range band{part_start(height, parts, part), part_start(height, parts, part + 1)};
    const Index pixels = (band.end - band.begin) * width;
    float* const sums = scratch.room<float>(pixels * pitch);
    std::memset(sums, 0, pixels * pitch * sizeof(float));
    const Range outputs = outputs_meeting(pool.rows, band);
    for (Index row = outputs.begin; row < outputs.end; ++row) {
      add_row_gradients(pool, x + image * pool.inputs(),
                        dy + image * pool.outputs() + row * output_line, row, band, pitch, sums);
    }
    auto* const to = dx + image * pool.inputs() + band.begin * width * channels;
    for (Index pixel = 0; pixel < pixels; ++pixel) {
      for (Index c = 0; c < channels; c += kLanes) {
        write<Number>(to + pixel * channels + c, channels - c, load(sums + pixel * pitch + c));
      }
    }
  });
}

}  // namespace cnn_jax
