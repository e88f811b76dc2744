// Geometry of a convolution; see `cnn_jax/ops/window.py`.

#pragma once

#include <algorithm>

#include "vector.h"

namespace cnn_jax {

// One spatial axis: output `o` reads input `stride o + dilation k - low` through tap `k`. Inputs
// before the first one and after the last one are zeros.
struct Axis {
  Index size;
  Index kernel;
  Index stride;
  Index dilation;
  Index low;
  Index high;

  Index output() const {
    return (size + low + high - dilation * (kernel - 1) - 1) / stride + 1;
  }
};

// The input that output 0 reads through tap `tap`. It may lie outside of the image.
inline Index first_input(const Axis& axis, Index tap) { return axis.dilation * tap - axis.low; }

// Half-open range [begin, end).
struct Range {
  Index begin;
  Index end;
};

// Number of the places first, first + step, ... below `end`. Division rounds towards zero, so that
// a negative distance needs its own case.
constexpr Index count_places(Index first, Index end, Index step) {
  return first < end ? ceil_div(end - first, step) : 0;
}

// The outputs whose input through tap `tap` lies in the image.
inline Range outputs_within(const Axis& axis, Index tap) {
  const Index first = first_input(axis, tap), outputs = axis.output();
  const Index begin = std::min(outputs, count_places(first, 0, axis.stride));
  return {begin, std::clamp(count_places(first, axis.size, axis.stride), begin, outputs)};
}

// A convolution of `x` [batch, rows.size, columns.size, groups * inputs] by `kernel` [rows.kernel,
// columns.kernel, inputs, groups * outputs] to `y` [batch, rows.output(), columns.output(), groups
// * outputs]: `inputs` and `outputs` are the channels of one group.
struct Convolution {
  Index batch;
  Axis rows;
  Axis columns;
  Index groups;
  Index inputs;
  Index outputs;

  Index taps() const { return rows.kernel * columns.kernel; }
  Index input_channels() const { return groups * inputs; }
  Index output_channels() const { return groups * outputs; }
};

}  // namespace cnn_jax
