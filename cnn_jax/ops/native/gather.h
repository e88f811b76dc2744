// Dense convolutions. Each output gathers its inputs, in tiles whose sums stay in registers.
//
// A tile consists of some pixels of a row and two vectors of output channels. Each step multiplies
// two vectors of weights by one value of each pixel, which keeps the multipliers busy. There is no
// im2col: at most a band of rows is copied at a time, with its padding, into the cache.

#pragma once

#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "geometry.h"
#include "numbers.h"
#include "parallel.h"

namespace cnn_jax {

// One axis of a gather. Output `n` reads input `start + stride n + dilation t` through tap `t`, and
// is written to position `target_start + target_stride n` of the target.
struct Line {
  Index outputs;
  Index size;
  Index start;
  Index stride;
  Index dilation;
  Index taps;
  Index target_start;
  Index target_stride;

  // Number of inputs from the first to the last one that `outputs` neighbouring outputs read.
  Index reach(Index outputs) const { return stride * (outputs - 1) + dilation * (taps - 1) + 1; }
  bool is_within() const { return start >= 0 && start + reach(outputs) <= size; }
  bool is_identity() const {
    return taps == 1 && stride == 1 && start == 0 && size == outputs && target_stride == 1;
  }
};

// Gather from [batch, rows.size, columns.size, groups * inputs] into positions of the target
// [batch, target_rows, target_columns, groups * outputs].
struct Gather {
  Index batch;
  Line rows;
  Line columns;
  Index groups;
  Index inputs;
  Index outputs;
  Index target_rows;
  Index target_columns;

  Index taps() const { return rows.taps * columns.taps; }
};

// The gather of a convolution's output.
inline Gather forward(const Convolution& conv) {
  const auto line = [](const Axis& axis) {
    return Line{axis.output(), axis.size, -axis.low, axis.stride, axis.dilation, axis.kernel, 0, 1};
  };
  return {conv.batch,  line(conv.rows), line(conv.columns),  conv.groups,
          conv.inputs, conv.outputs,    conv.rows.output(), conv.columns.output()};
}

constexpr int kWidest = 2;                  // Maximum number of vectors of a tile.
constexpr Index kBlock = kWidest * kLanes;  // Maximum number of channels of a tile.
constexpr int kMostPixels = (kRegisters - kWidest - 1) / kWidest;
constexpr Index kBandBytes = 192 * 1024;  // Inputs of a band, to stay in a core's cache.
constexpr Index kPageBytes = 4096;        // Lines at this distance share a set of the cache.
constexpr Index kCacheLine = 64;
constexpr Index kLeastTasks = 8;          // Minimum number of tasks, to balance the threads.

// Outputs are divided into blocks of `kBlock` channels, and the last block is rounded up to whole
// vectors. The weights of the blocks follow each other in memory.
inline Index blocks_of(Index outputs) { return ceil_div(outputs, kBlock); }
inline Index vectors_of(Index outputs, Index block) {
  return std::min<Index>(kWidest, ceil_div(outputs - block * kBlock, kLanes));
}
inline Index packed_outputs(Index outputs) { return ceil_div(outputs, kLanes) * kLanes; }

// Computes `P` pixels by `V` vectors of output channels. The pixels are `pixel` elements apart.
// Each of them reads `runs` runs of `length` neighbouring values, at `offsets`. The weights are
// [runs, length / depth, V vectors, depth]. The first `lanes` sums of each pixel are stored. Each
// step prefetches one address: `ahead`, then every `ahead_step` elements.
template <typename Number, int P, int V>
void tile(const typename Number::Element* x, Index pixel, const Index* offsets, Index runs,
          Index length, const typename Number::Element* weights, typename Number::Element* y,
          Index target_pixel, Index lanes, const typename Number::Element* ahead,
          Index ahead_step) {
  using Element = typename Number::Element;
  constexpr int kBases = (P + 2) / 3;  // Three pixels per pointer, to save registers.
  constexpr Index kDepth = Number::kDepth;
  Vector sums[P][V] = {};
  for (Index run = 0; run < runs; ++run) {
    const Element* base[kBases];
    for (int b = 0; b < kBases; ++b) base[b] = x + offsets[run] + 3 * b * pixel;
    for (Index k = 0; k < length; k += kDepth, weights += V * kLanes * kDepth) {
      __builtin_prefetch(ahead);
      ahead += ahead_step;
      typename Number::Weights weight[V];
      for (int v = 0; v < V; ++v) weight[v] = Number::weights(weights + v * kLanes * kDepth);
#pragma GCC unroll 16
      for (int p = 0; p < P; ++p) {
        const auto value = Number::value(base[p / 3] + p % 3 * pixel);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[p][v] = Number::add(sums[p][v], weight[v], value);
      }
#pragma GCC unroll 16
      for (int b = 0; b < kBases; ++b) base[b] += kDepth;
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    if (lanes == V * kLanes) {
      for (int v = 0; v < V; ++v) Number::put(y + p * target_pixel + v * kLanes, sums[p][v]);
    } else {
      Element all[V * kLanes];
      for (int v = 0; v < V; ++v) Number::put(all + v * kLanes, sums[p][v]);
      std::memcpy(y + p * target_pixel, all, lanes * sizeof(Element));
    }
  }
}

template <int V, typename Body, int... P>
constexpr auto bodies_of_tiles(std::integer_sequence<int, P...>) {
  using Call = void (*)(const Body&);
  return std::array<Call, sizeof...(P)>{
      [](const Body& body) { body(Constant<P + 1>(), Constant<V>()); }...};
}

// Calls `body` with the size of a tile, at most `kMostPixels` by `kWidest`, as constants.
template <typename Body>
void with_tile(Index size, Index vectors, const Body& body) {
  constexpr auto kSizes = std::make_integer_sequence<int, kMostPixels>();
  static constexpr auto kNarrow = bodies_of_tiles<1, Body>(kSizes);
  static constexpr auto kWide = bodies_of_tiles<2, Body>(kSizes);
  (vectors == 1 ? kNarrow : kWide)[size - 1](body);
}

// A rectangle of the outputs of an image.
struct Band {
  Index image;
  Index row;
  Index rows;
  Index column;
  Index columns;
};

// Inputs of a band: the input of its first output through the first tap, and the distances between
// rows and between pixels.
template <typename Element>
struct View {
  const Element* data;
  Index row;
  Index pixel;
};

// Copies the inputs of a band and one group, with zeros for the padding. The copied pixels are
// `pixel` elements apart.
template <typename Element>
View<Element> copy_band(const Gather& job, const Band& band, const Element* x, Index group,
                        Index pixel, Scratch& scratch) {
  const Index height = job.rows.reach(band.rows), width = job.columns.reach(band.columns);
  const Index first_row = job.rows.start + job.rows.stride * band.row;
  const Index first_column = job.columns.start + job.columns.stride * band.column;
  const Index channels = job.groups * job.inputs;
  const Index begin = std::clamp<Index>(-first_column, 0, width);
  const Index end = std::clamp<Index>(job.columns.size - first_column, begin, width);
  Element* const copy = scratch.room<Element>(height * width * pixel);
  for (Index r = 0; r < height; ++r) {
    Element* const to = copy + r * width * pixel;
    const Index row = first_row + r;
    if (row < 0 || row >= job.rows.size) {
      std::memset(to, 0, width * pixel * sizeof(Element));
      continue;
    }
    const Element* from = x + ((band.image * job.rows.size + row) * job.columns.size + first_column +
                             begin) * channels + group * job.inputs;
    std::memset(to, 0, begin * pixel * sizeof(Element));
    if (pixel == channels) {
      std::memcpy(to + begin * pixel, from, (end - begin) * pixel * sizeof(Element));
    } else {
      for (Index c = begin; c < end; ++c, from += channels) {
        std::memcpy(to + c * pixel, from, job.inputs * sizeof(Element));
      }
    }
    std::memset(to + end * pixel, 0, (width - end) * pixel * sizeof(Element));
  }
  return {copy, width * pixel, pixel};
}

// Runs a gather, band by band.
template <typename Number>
class Gatherer {
 public:
  using Element = typename Number::Element;

  Gatherer(const Gather& job, const Element* x, const Element* weights, Element* y)
      : job_(job), x_(x), weights_(weights), y_(y) {
    const Index channels = job.groups * job.inputs;
    // Pixels at a multiple of a page would evict each other from the cache.
    const bool collides = job.columns.stride * channels % kPage == 0;
    copies_ = collides || !job.rows.is_within() || !job.columns.is_within();
    pixel_ = copies_ ? job.inputs + (job.columns.stride * job.inputs % kPage == 0) * kBlock
                     : channels;
    one_run_ = pixel_ == job.inputs && job.columns.dilation == 1;
  }

  void run(xla::ffi::ThreadPool& pool) const {
    const Index columns = job_.rows.outputs == 1 ? band_columns() : job_.columns.outputs;
    const Index rows = band_rows(columns);
    const Index across = ceil_div(job_.columns.outputs, columns);
    const Index down = ceil_div(job_.rows.outputs, rows);
    const Index bands = job_.batch * down * across;
    const Index blocks = blocks_of(job_.outputs);
    const Index shares = std::min(blocks, ceil_div(kLeastTasks, bands * job_.groups));
    parallel_for(pool, bands * job_.groups * shares, [&](Index task) {
      const Index share = task % shares, group = task / shares % job_.groups;
      const Index band = task / shares / job_.groups;
      const Index row = band / across % down, column = band % across;
      compute({band / across / down, part_start(job_.rows.outputs, down, row),
               part_start(job_.rows.outputs, down, row + 1) -
                   part_start(job_.rows.outputs, down, row),
               part_start(job_.columns.outputs, across, column),
               part_start(job_.columns.outputs, across, column + 1) -
                   part_start(job_.columns.outputs, across, column)},
              group, part_start(blocks, shares, share), part_start(blocks, shares, share + 1));
    });
  }

 private:
  static constexpr Index kBand = kBandBytes / sizeof(Element);
  static constexpr Index kPage = kPageBytes / sizeof(Element);

  Index band_columns() const {
    const Index columns = std::max<Index>(kBand / (job_.columns.stride * pixel_), 1);
    return std::min(job_.columns.outputs, ceil_div(columns, kMostPixels) * kMostPixels);
  }

  Index band_rows(Index columns) const {
    const Index row = job_.columns.reach(columns) * pixel_ * job_.rows.stride;
    return std::clamp<Index>(kBand / row, 1, job_.rows.outputs);
  }

  View<Element> inputs_of(const Band& band, Index group) const {
    static thread_local Scratch scratch;
    if (copies_) return copy_band(job_, band, x_, group, pixel_, scratch);
    const Index row = job_.rows.start + job_.rows.stride * band.row;
    const Index column = job_.columns.start + job_.columns.stride * band.column;
    const Index width = job_.columns.size * pixel_;
    return {x_ + (band.image * job_.rows.size + row) * width + column * pixel_ +
                group * job_.inputs, width, pixel_};
  }

  std::vector<Index> runs_of(const View<Element>& view) const {
    std::vector<Index> offsets;
    for (Index i = 0; i < job_.rows.taps; ++i) {
      for (Index j = 0; j < (one_run_ ? 1 : job_.columns.taps); ++j) {
        offsets.push_back(i * job_.rows.dilation * view.row +
                          j * job_.columns.dilation * view.pixel);
      }
    }
    return offsets;
  }

  void compute(const Band& band, Index group, Index first_block, Index last_block) const {
    const View<Element> view = inputs_of(band, group);
    const std::vector<Index> offsets = runs_of(view);
    const Index length = (one_run_ ? job_.columns.taps : 1) * job_.inputs;
    const Index depth = job_.taps() * job_.inputs;
    const Index pixels = job_.columns.stride * view.pixel;
    const Index channels = job_.groups * job_.outputs;
    const Index target_pixel = job_.columns.target_stride * channels;
    const Index parts = ceil_div(band.columns, kMostPixels);
    const Element* weights = weights_ + group * depth * packed_outputs(job_.outputs);
    for (Index block = first_block; block < last_block; ++block) {
      const Index vectors = vectors_of(job_.outputs, block);
      const Index lanes = std::min(job_.outputs - block * kBlock, vectors * kLanes);
      // Prefetching is useless for copied inputs and for inputs that an earlier block has read.
      const bool fetches = !copies_ && block == first_block;
      for (Index r = 0; r < band.rows; ++r) {
        const Index row = job_.rows.target_start + job_.rows.target_stride * (band.row + r);
        Element* const y = y_ + ((band.image * job_.target_rows + row) * job_.target_columns +
                               job_.columns.target_start) * channels +
                         band.column * target_pixel + group * job_.outputs + block * kBlock;
        const Element* const x = view.data + r * job_.rows.stride * view.row;
        for (Index part = 0; part < parts; ++part) {
          const Index from = part_start(band.columns, parts, part);
          const Index to = part_start(band.columns, parts, part + 1);
          with_tile(to - from, vectors, [&](auto p, auto v) {
            tile<Number, p, v>(x + from * pixels, pixels, offsets.data(), offsets.size(), length,
                               weights + block * kBlock * depth, y + from * target_pixel,
                               target_pixel, lanes, x + to * pixels,
                               fetches ? kCacheLine / Index{sizeof(Element)} : 0);
          });
        }
      }
    }
  }

  const Gather& job_;
  const Element* x_;
  const Element* weights_;
  Element* y_;
  bool copies_;
  Index pixel_;
  bool one_run_;
};

// Computes `job`. Its weights are [group][block of outputs][row taps, column taps, inputs, lanes];
// the inputs that one step reads together, `kDepth` of them, are interleaved in the lanes.
template <typename Number>
void gather(xla::ffi::ThreadPool& pool, Gather job, const typename Number::Element* x,
            const typename Number::Element* weights, typename Number::Element* y) {
  if (job.rows.is_identity() && job.columns.is_identity()) {  // Treats all pixels as one row.
    const Index pixels = job.batch * job.rows.outputs * job.columns.outputs;
    job.batch = job.rows.outputs = job.rows.size = job.target_rows = 1;
    job.columns.outputs = job.columns.size = job.target_columns = pixels;
  }
  Gatherer<Number>(job, x, weights, y).run(pool);
}

}  // namespace cnn_jax
