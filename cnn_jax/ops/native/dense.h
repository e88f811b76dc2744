// Outputs and input gradients of convolutions with groups of any size, as gathers.

#pragma once

#include "gather.h"

namespace cnn_jax {

// Some taps of an axis, in the order in which they are read: `first + step n`.
struct Taps {
  Index first;
  Index step;
  Index count;
};

// Layout of a kernel for a gather: the distances, in elements, between its neighbouring weights.
// The input gradient exchanges inputs and outputs.
template <typename Element>
struct Source {
  const Element* kernel;
  Index columns;  // kw
  Index tap;      // Distance between taps.
  Index input;    // Distance between inputs of the gather.
  Index output;   // Distance between outputs of the gather.
  Index group;    // Distance between groups.
};

// Packs the weights of one tap for `lanes` outputs that are neighbours in the source.
template <typename Number>
void pack_rows(const typename Number::Element* from, Index input, Index inputs, Index lanes,
               Index width, typename Number::Element* packed) {
  auto* to = reinterpret_cast<typename Number::Tuple*>(packed);
  for (Index c = 0; c < inputs; c += Number::kDepth, to += width) {
    join<Number>(from + c * input, from + (c + Number::kDepth - 1) * input, lanes, to);
  }
}

// Packs the weights of one tap for `lanes` outputs whose inputs are neighbours in the source.
template <typename Element>
void pack_columns(const Element* from, Index output, Index inputs, Index lanes, Index width,
                  Element* packed) {
  constexpr Index kStrip = 16;  // Inputs of a strip, which stays in the cache.
  for (Index start = 0; start < inputs; start += kStrip) {
    const Index end = std::min(inputs, start + kStrip);
    for (Index lane = 0; lane < lanes; ++lane) {
      for (Index c = start; c < end; ++c) packed[c * width + lane] = from[lane * output + c];
    }
  }
}

template <typename Number>
void pack_tap(const Source<typename Number::Element>& source, Index inputs, Index lanes,
              Index width, const typename Number::Element* from,
              typename Number::Element* packed) {
  constexpr Index kDepth = Number::kDepth;
  if (lanes < width) std::memset(packed, 0, inputs * width * sizeof *packed);
  if (source.output == 1) {
    pack_rows<Number>(from, source.input, inputs, lanes, width, packed);
  } else if constexpr (kDepth == 1) {
    pack_columns(from, source.output, inputs, lanes, width, packed);
  } else {  // The inputs of a step are neighbours in the source too: they are copied together.
    pack_columns(reinterpret_cast<const uint32_t*>(from), source.output / kDepth, inputs / kDepth,
                 lanes, width, reinterpret_cast<uint32_t*>(packed));
  }
}

// Packs the weights for `gather`, in memory of this thread.
template <typename Number>
const typename Number::Element* pack(xla::ffi::ThreadPool& pool,
                                     const Source<typename Number::Element>& source,
                                     const Taps& rows, const Taps& columns, Index groups,
                                     Index inputs, Index outputs) {
  using Element = typename Number::Element;
  static thread_local Scratch scratch;
  const Index depth = rows.count * columns.count * inputs, blocks = blocks_of(outputs);
  Element* const packed = scratch.room<Element>(groups * depth * packed_outputs(outputs));
  parallel_for(pool, groups * blocks, [&](Index task) {
    const Index group = task / blocks, block = task % blocks;
    const Index width = vectors_of(outputs, block) * kLanes;
    const Index lanes = std::min(outputs - block * kBlock, width);
    Element* to = packed + depth * (group * packed_outputs(outputs) + block * kBlock);
    for (Index i = 0; i < rows.count; ++i) {
      for (Index j = 0; j < columns.count; ++j, to += inputs * width) {
        const Index tap = (rows.first + rows.step * i) * source.columns + columns.first +
                          columns.step * j;
        pack_tap<Number>(source, inputs, lanes, width,
                         source.kernel + tap * source.tap + group * source.group +
                             block * kBlock * source.output,
                         to);
      }
    }
  });
  return packed;
}

template <typename Number>
void dense_output(xla::ffi::ThreadPool& pool, const Convolution& conv,
                  const typename Number::Element* x, const typename Number::Element* kernel,
                  typename Number::Element* y) {
  using Element = typename Number::Element;
  const Index channels = conv.output_channels();
  const Source<Element> source{kernel,   conv.columns.kernel, conv.inputs * channels,
                               channels, 1,                   conv.outputs};
  const Element* const packed =
      pack<Number>(pool, source, {0, 1, conv.rows.kernel}, {0, 1, conv.columns.kernel},
                   conv.groups, conv.inputs, conv.outputs);
  gather<Number>(pool, forward(conv), x, packed, y);
}

// One phase of the input gradient: the inputs at one remainder of the stride, and the taps that
// read them. It is a gather of stride 1 from the output gradients.
struct Phase {
  Taps taps;
  Line line;
};

inline std::vector<Phase> phases_of(const Axis& axis) {
  std::vector<Phase> phases;
  for (Index remainder = 0; remainder < std::min(axis.stride, axis.size); ++remainder) {
    // Output (h + low - dilation k) / stride reads input h = remainder + stride n through tap k.
    Index first = 0;
    while (first < axis.kernel &&
           (remainder + axis.low - axis.dilation * first) % axis.stride != 0) ++first;
    Index step = 1;
    while (axis.dilation * step % axis.stride != 0) ++step;
    const Index count = first < axis.kernel ? (axis.kernel - 1 - first) / step + 1 : 0;
    const Index last = first + step * (count - 1);
    const Index start = (remainder + axis.low - axis.dilation * last) / axis.stride;
    phases.push_back({{last, -step, count},
                      {ceil_div(axis.size - remainder, axis.stride), axis.output(), start, 1,
                       axis.dilation * step / axis.stride, count, remainder, axis.stride}});
  }
  return phases;
}

template <typename Number>
void dense_input_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                          const typename Number::Element* dy,
                          const typename Number::Element* kernel,
                          typename Number::Element* dx) {
  using Element = typename Number::Element;
  const Index channels = conv.output_channels();
  const Source<Element> source{kernel, conv.columns.kernel, conv.inputs * channels,
                               1,      channels,            conv.outputs};
  const std::vector<Phase> rows = phases_of(conv.rows), columns = phases_of(conv.columns);
  const auto is_empty = [](const Phase& phase) { return phase.taps.count == 0; };
  if (std::any_of(rows.begin(), rows.end(), is_empty) ||
      std::any_of(columns.begin(), columns.end(), is_empty)) {
    const Index line = conv.columns.size * conv.input_channels();
    parallel_for(pool, conv.batch * conv.rows.size, [&](Index row) {
      std::memset(dx + row * line, 0, line * sizeof(Element));
    });
  }
  for (const Phase& row : rows) {
    for (const Phase& column : columns) {
      if (is_empty(row) || is_empty(column)) continue;
      const Element* const packed = pack<Number>(pool, source, row.taps, column.taps,
                                                 conv.groups, conv.outputs, conv.inputs);
      const Gather job{conv.batch, row.line,    column.line,    conv.groups,
                       conv.outputs, conv.inputs, conv.rows.size, conv.columns.size};
      gather<Number>(pool, job, dy, packed, dx);
    }
  }
}

}  // namespace cnn_jax
