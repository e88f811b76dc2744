// Kernel gradient of a dense convolution: sums over pixels, in tiles that stay in registers.
//
// A tile consists of some input channels of one tap and two vectors of output channels. Each step
// adds the product of one pixel. The sums of a block of outputs for all taps are a panel, which
// stays in the cache. The images are divided into slabs, whose products are added to the panel one
// after the other. The data that a tile reads from a slab is packed into consecutive lines.

#pragma once

#include "gather.h"

namespace cnn_jax {

constexpr Index kPanelFloats = 512 * 1024;  // Maximum number of sums of one task.
constexpr Index kSlabPixels = 196;          // With fewer, loading and storing sums dominates.
constexpr Index kFewInputs = 8;             // Fewer inputs share a tile with neighbouring taps.
constexpr Index kMostTaps = 16;             // Maximum number of taps that share a tile.
constexpr Index kTileLine = 16;             // Distance between the pixels of a packed tile.
static_assert(kMostPixels <= kTileLine);

// A box of pixels in memory, with the distances between images, rows and pixels.
template <typename Number>
struct Box {
  const typename Number::Tuple* data;
  Index image;
  Index row;
  Index pixel;
};

// Adds the products of `P` inputs and `V` vectors of outputs to `sums` [P, V vectors]. Each step
// prefetches one address: `ahead`, then every `ahead_step` bytes.
template <typename Number, int P, int V>
void add_products(const Box<Number>& x, const Box<Number>& dy, Index images, Index rows,
                  Index columns, float* sums, const char* ahead, Index ahead_step) {
  Vector total[P][V];
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) total[p][v] = load(sums + (p * V + v) * kLanes);
  }
  for (Index image = 0; image < images; ++image) {
    for (Index row = 0; row < rows; ++row) {
      const typename Number::Tuple* input = x.data + image * x.image + row * x.row;
      const typename Number::Tuple* gradient = dy.data + image * dy.image + row * dy.row;
      for (Index column = 0; column < columns; ++column) {
        __builtin_prefetch(ahead);
        ahead += ahead_step;
        typename Number::Weights factor[V];
        for (int v = 0; v < V; ++v) factor[v] = Number::weights(gradient + v * kLanes);
#pragma GCC unroll 16
        for (int p = 0; p < P; ++p) {
          const auto value = Number::value(input + p);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) total[p][v] = Number::add(total[p][v], factor[v], value);
        }
        input += x.pixel;
        gradient += V * kLanes;
      }
    }
  }
#pragma GCC unroll 16
  for (int p = 0; p < P; ++p) {
    for (int v = 0; v < V; ++v) store(sums + (p * V + v) * kLanes, total[p][v]);
  }
}

// Some rows of the outputs of some images. Images are counted in tuples of `kDepth` images.
struct Slab {
  Index image;
  Index images;
  Index row;
  Index rows;
};

// Memory that will be needed soon, prefetched line by line.
class Ahead {
 public:
  void add(const void* begin, Index bytes) {
    spans_.push_back({static_cast<const char*>(begin), bytes});
  }
  const char* at() const { return spans_.empty() ? nullptr : spans_.back().begin; }
  Index step() const { return spans_.empty() ? 0 : kCacheLine; }
  void pass(Index steps) {
    if (spans_.empty()) return;
    Span& span = spans_.back();
    span.begin += steps * kCacheLine;
    span.bytes -= steps * kCacheLine;
    if (span.bytes <= 0) spans_.pop_back();
  }

 private:
  struct Span {
    const char* begin;
    Index bytes;
  };
  std::vector<Span> spans_;
};

template <typename Number>
class KernelGradient {
 public:
  using Element = typename Number::Element;
  using Tuple = typename Number::Tuple;

  KernelGradient(const Convolution& conv, const Element* x, const Element* dy)
      : conv_(conv),
        x_(x),
        dy_(dy),
        joins_taps_(conv.inputs < kFewInputs && conv.columns.kernel > 1 &&
                    conv.columns.kernel <= kMostTaps),
        columns_(joins_taps_ ? Axis{conv.columns.output(), 1, 1, 1, 0, 0} : conv.columns),
        inputs_(joins_taps_ ? conv.columns.kernel * conv.inputs : conv.inputs),
        tuples_(ceil_div(conv.batch, Number::kDepth)),
        tiles_(ceil_div(inputs_, kMostPixels)),
        blocks_(blocks_of(conv.outputs)),
        depth_(conv.taps() * conv.inputs),
        packs_(joins_taps_ || Number::kDepth > 1 ||
               conv.columns.stride * conv.input_channels() * Index{sizeof(Tuple)} >= kPageBytes),
        height_(conv.rows.output()),
        width_(conv.columns.output()) {
    set_ = std::clamp<Index>(kPanelFloats / (depth_ * kBlock), 1, blocks_);
    sets_ = ceil_div(blocks_, set_);
    images_ = std::min(tuples_, ceil_div(kSlabPixels, height_ * width_));
    rows_ = std::clamp<Index>(ceil_div(kSlabPixels, width_), 1, height_);
    down_ = ceil_div(height_, rows_);
    slabs_ = ceil_div(tuples_, images_) * down_;
    parts_ = std::min(slabs_, ceil_div(kLeastTasks, conv.groups * sets_));
  }

  void run(xla::ffi::ThreadPool& pool, Element* dkernel) const {
    static thread_local Scratch scratch;
    const Index part_size = conv_.groups * depth_ * packed_outputs(conv_.outputs);
    float* const panels = scratch.room<float>(parts_ * part_size);
    parallel_for(pool, conv_.groups * sets_ * parts_, [&](Index task) {
      const Index part = task % parts_, set = task / parts_ % sets_;
      const Index group = task / parts_ / sets_;
      float* const panel = panels + part * part_size +
                           group * depth_ * packed_outputs(conv_.outputs);
      sum(group, set * set_, std::min(blocks_, (set + 1) * set_),
          part_start(slabs_, parts_, part), part_start(slabs_, parts_, part + 1), panel);
    });
    parallel_for(pool, conv_.groups * blocks_, [&](Index task) {
      unpack(task / blocks_, task % blocks_, panels, part_size, dkernel);
    });
  }

 private:
  // Sums some blocks of outputs over some slabs. `panel` is the panel of the group.
  void sum(Index group, Index first_block, Index last_block, Index first_slab, Index last_slab,
           float* panel) const {
    const Index begin = first_block * kBlock;
    const Index end = std::min(last_block * kBlock, packed_outputs(conv_.outputs));
    std::memset(panel + begin * depth_, 0, (end - begin) * depth_ * sizeof(float));
    for (Index index = first_slab; index < last_slab; ++index) {
      const Slab slab = slab_of(index);
      Ahead ahead;
      if (index + 1 < last_slab) fetch_later(slab_of(index + 1), ahead);
      const Inputs inputs = packs_ ? pack_inputs(slab, group) : inputs_within(slab, group);
      for (Index block = first_block; block < last_block; ++block) {
        const Index vectors = vectors_of(conv_.outputs, block);
        const Box<Number> gradients = pack_gradients(slab, group, block, vectors);
        add_taps(slab, inputs, gradients, vectors, panel + block * kBlock * depth_, ahead);
      }
    }
  }

  Slab slab_of(Index index) const {
    const Index image = index / down_ * images_;
    const Index row = part_start(height_, down_, index % down_);
    return {image, std::min(images_, tuples_ - image), row,
            part_start(height_, down_, index % down_ + 1) - row};
  }

  // Adds the memory of a slab's inputs and outputs to `ahead`. Groups and strided convolutions are
  // not prefetched, because they would not use most of this memory.
  void fetch_later(const Slab& slab, Ahead& ahead) const {
    if (conv_.groups > 1 || conv_.rows.stride > 1 || conv_.columns.stride > 1) return;
    const Index line = conv_.columns.size * conv_.inputs, output_line = width_ * conv_.outputs;
    const Index end = std::min(conv_.batch, (slab.image + slab.images) * Number::kDepth);
    for (Index image = slab.image * Number::kDepth; image < end; ++image) {
      ahead.add(x_ + (image * conv_.rows.size + slab.row) * line,
                slab.rows * line * Index{sizeof(Element)});
      ahead.add(dy_ + (image * height_ + slab.row) * output_line,
                slab.rows * output_line * Index{sizeof(Element)});
    }
  }

  // Rows of a slab's inputs that lie in the image, in place or packed.
  struct Inputs {
    Box<Number> box;
    Index tile;         // Distance between tiles of channels; 0 if the inputs are not packed.
    Index first_row;
    Index row_step;     // Rows of the image from one row to the next.
    Index first_column;
    Index column_step;
  };

  Inputs inputs_within(const Slab& slab, Index group) const {
    const Index channels = conv_.input_channels(), line = conv_.columns.size * channels;
    const Index image = conv_.rows.size * line;
    const auto* const data = reinterpret_cast<const Tuple*>(x_) + slab.image * image +
                             group * conv_.inputs;
    return {{data, image, line, channels}, 0, 0, 1, 0, 1};
  }

  // With one row of taps, rows that no output reads are skipped.
  Index row_step() const { return conv_.rows.kernel == 1 ? conv_.rows.stride : 1; }

  // Packs inputs to [tile, image, row, column, line].
  Inputs pack_inputs(const Slab& slab, Index group) const {
    static thread_local Scratch scratch;
    const Axis& rows = conv_.rows;
    const Index last_output = slab.row + slab.rows - 1, step = row_step();
    const Index last = rows.stride * last_output + first_input(rows, rows.kernel - 1);
    Index first = rows.stride * slab.row - rows.low;
    while (first < 0) first += step;
    const Index count = count_places(first, std::min(last + 1, rows.size), step);
    const Index columns = joins_taps_ ? width_ : packed_columns();
    const Index tile_size = slab.images * count * columns * kTileLine;
    Tuple* const packed = scratch.room<Tuple>(tiles_ * tile_size);
    for (Index image = 0; image < slab.images; ++image) {
      for (Index row = 0; row < count; ++row) {
        pack_row(slab.image + image, first + row * step, group, tile_size,
                 packed + (image * count + row) * columns * kTileLine);
      }
    }
    const Index line = columns * kTileLine;
    return {{packed, count * line, line, kTileLine}, tile_size, first, step, first_column(),
            column_step()};
  }

  // With one column of taps, columns that no output reads are skipped.
  Index column_step() const { return columns_.kernel == 1 ? columns_.stride : 1; }
  Index first_column() const {
    Index first = columns_.kernel == 1 ? -columns_.low : 0;
    while (first < 0) first += column_step();
    return first;
  }
  Index packed_columns() const {
    return count_places(first_column(), columns_.size, column_step());
  }

  void pack_row(Index image, Index row, Index group, Index tile_size, Tuple* packed) const {
    const Index channels = conv_.input_channels(), line = conv_.columns.size * channels;
    const Index first = image * Number::kDepth;
    const Element* const from = x_ + (first * conv_.rows.size + row) * line + group * conv_.inputs;
    const bool is_last = first + Number::kDepth > conv_.batch;
    const Index second = is_last ? 0 : (Number::kDepth - 1) * conv_.rows.size * line;
    if (joins_taps_) {
      for (Index q = 0; q < width_; ++q) {
        pack_joined(from, second, is_last, q, tile_size, packed + q * kTileLine);
      }
      return;
    }
    const Element* const end = x_ + conv_.batch * conv_.rows.size * line;
    for (Index column = first_column(); column < columns_.size; column += column_step()) {
      const Element* const pixel = from + column * channels;
      for (Index tile = 0; tile < tiles_; ++tile) {
        const Element* const values = pixel + part_start(inputs_, tiles_, tile);
        const Index size = std::min(kTileLine, end - values - second);
        join<Number>(values, is_last ? nullptr : values + second, size,
                     packed + tile * tile_size);
      }
      packed += kTileLine;
    }
  }

  // Packs the inputs that output `q` reads from a row: the inputs of all taps, one after the other,
  // with zeros outside of the image.
  void pack_joined(const Element* row, Index second, bool is_last, Index q, Index tile_size,
                   Tuple* packed) const {
    const Axis& axis = conv_.columns;
    const Index channels = conv_.input_channels(), first = axis.stride * q - axis.low;
    const bool is_dense = axis.dilation == 1 && channels == conv_.inputs;
    const Index beyond = first + ceil_div(inputs_ + kTileLine, channels);
    if (is_dense && first >= 0 && beyond <= axis.size) {
      for (Index tile = 0; tile < tiles_; ++tile) {
        const Element* const values = row + first * channels + part_start(inputs_, tiles_, tile);
        join<Number>(values, is_last ? nullptr : values + second, kTileLine,
                     packed + tile * tile_size);
      }
      return;
    }
    Tuple values[kFewInputs * kMostTaps + kTileLine];
    for (Index j = 0; j < axis.kernel; ++j) {
      const Index column = first + axis.dilation * j;
      Tuple* const to = values + j * conv_.inputs;
      if (column < 0 || column >= axis.size) {
        std::memset(to, 0, conv_.inputs * sizeof(Tuple));
      } else {
        const Element* const pixel = row + column * channels;
        join<Number>(pixel, is_last ? nullptr : pixel + second, conv_.inputs, to);
      }
    }
    for (Index tile = 0; tile < tiles_; ++tile) {
      std::memcpy(packed + tile * tile_size, values + part_start(inputs_, tiles_, tile),
                  kTileLine * sizeof(Tuple));
    }
  }

  // Packs one block of the output gradients as whole vectors.
  Box<Number> pack_gradients(const Slab& slab, Index group, Index block, Index vectors) const {
    static thread_local Scratch scratch;
    const Index lanes = std::min(conv_.outputs - block * kBlock, vectors * kLanes);
    const Index size = vectors * kLanes, channels = conv_.output_channels();
    const Index pixels = slab.rows * width_, line = height_ * width_ * channels;
    Tuple* const packed = scratch.room<Tuple>(slab.images * pixels * size);
    Tuple* to = packed;
    for (Index image = 0; image < slab.images; ++image) {
      const Index first = (slab.image + image) * Number::kDepth;
      const Element* from = dy_ + first * line + slab.row * width_ * channels +
                            group * conv_.outputs + block * kBlock;
      const bool is_last = first + Number::kDepth > conv_.batch;
      for (Index pixel = 0; pixel < pixels; ++pixel, from += channels, to += size) {
        if (lanes < size) std::memset(to, 0, size * sizeof(Tuple));
        join<Number>(from, is_last ? nullptr : from + (Number::kDepth - 1) * line, lanes, to);
      }
    }
    return {packed, pixels * size, width_ * size, size};
  }

  // Adds the products of a slab for each tap, over the outputs whose input lies in the image.
  void add_taps(const Slab& slab, const Inputs& inputs, const Box<Number>& gradients,
                Index vectors, float* sums, Ahead& ahead) const {
    const Axis& rows = conv_.rows;
    for (Index i = 0; i < rows.kernel; ++i) {
      const Range down = outputs_within(rows, i);
      const Index top = std::max(down.begin, slab.row);
      const Index count = std::min(down.end, slab.row + slab.rows) - top;
      for (Index j = 0; j < columns_.kernel; ++j, sums += inputs_ * vectors * kLanes) {
        const Range across = outputs_within(columns_, j);
        if (count <= 0 || across.begin >= across.end) continue;
        const Index row = (rows.stride * top + first_input(rows, i) - inputs.first_row) /
                          inputs.row_step;
        const Index column = (columns_.stride * across.begin + first_input(columns_, j) -
                              inputs.first_column) / inputs.column_step;
        const Box<Number>& box = inputs.box;
        const Box<Number> met{box.data + row * box.row + column * box.pixel, box.image,
                              rows.stride / inputs.row_step * box.row,
                              columns_.stride / inputs.column_step * box.pixel};
        Box<Number> outputs = gradients;
        outputs.data += (top - slab.row) * gradients.row + across.begin * gradients.pixel;
        add_tiles(met, inputs.tile, outputs, vectors, slab.images, count,
                  across.end - across.begin, sums, ahead);
      }
    }
  }

  void add_tiles(Box<Number> inputs, Index tile_size, const Box<Number>& gradients, Index vectors,
                 Index images, Index rows, Index columns, float* sums, Ahead& ahead) const {
    const auto* const data = inputs.data;
    for (Index tile = 0; tile < tiles_; ++tile) {
      const Index begin = part_start(inputs_, tiles_, tile);
      inputs.data = data + (tile_size == 0 ? begin : tile * tile_size);
      with_tile(part_start(inputs_, tiles_, tile + 1) - begin, vectors, [&](auto p, auto v) {
        add_products<Number, p, v>(inputs, gradients, images, rows, columns,
                                   sums + begin * vectors * kLanes, ahead.at(), ahead.step());
      });
      ahead.pass(images * rows * columns);
    }
  }

  // Adds the sums of all parts of a block, in a fixed order, and stores them in `dkernel`.
  void unpack(Index group, Index block, const float* panels, Index part_size,
              Element* dkernel) const {
    const Index size = vectors_of(conv_.outputs, block) * kLanes;
    const Index lanes = std::min(conv_.outputs - block * kBlock, size);
    const float* from = panels + depth_ * (group * packed_outputs(conv_.outputs) + block * kBlock);
    Element* to = dkernel + group * conv_.outputs + block * kBlock;
    for (Index d = 0; d < depth_; ++d, from += size, to += conv_.output_channels()) {
      Element all[kBlock];
      for (Index lane = 0; lane < size; lane += kLanes) {
        Vector sums = load(from + lane);
        for (Index part = 1; part < parts_; ++part) sums += load(from + part * part_size + lane);
        Number::put(all + lane, sums);
      }
      std::memcpy(to, all, lanes * sizeof(Element));
    }
  }

  const Convolution& conv_;
  const Element* x_;
  const Element* dy_;
  bool joins_taps_;  // Treats the taps of a row as one tap with the inputs of all of them.
  Axis columns_;     // Columns after joining the taps.
  Index inputs_;     // Inputs of a tap after joining the taps.
  Index tuples_;     // Tuples of images.
  Index tiles_;      // Tiles of inputs.
  Index blocks_;     // Blocks of outputs.
  Index depth_;      // Sums for each output.
  bool packs_;       // Packs inputs that are too far apart, or of several images or taps.
  Index height_;
  Index width_;
  Index set_;        // Blocks of one task.
  Index sets_;
  Index images_;     // Tuples of images of a slab.
  Index rows_;       // Rows of a slab.
  Index down_;       // Slabs of an image.
  Index slabs_;
  Index parts_;      // Parts of the slabs; each part has its own sums.
};

template <typename Number>
void dense_kernel_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv,
                           const typename Number::Element* x,
                           const typename Number::Element* dy,
                           typename Number::Element* dkernel) {
  KernelGradient<Number>(conv, x, dy).run(pool, dkernel);
}

}  // namespace cnn_jax
