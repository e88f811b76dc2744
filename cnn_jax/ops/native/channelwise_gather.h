// Outputs and input gradients of convolutions with small groups.

#pragma once

#include "channelwise.h"

namespace cnn_jax {
namespace channelwise {

// The arrays of one image, and the distances between neighbouring elements.
struct Image {
  const float* source;
  const float* kernel;
  float* result;
  Index channels;
  Index columns;  // Columns of the sources.
  Index stride;   // Source columns from one result to the next.
  Index weight_pitch;
  Index result_pitch;
  bool far;  // Results are stored past the caches.
};

// Computes `count` results of a row, from `begin` on, for the channels in a range.
template <int lanes, int group, int width, int stride, int count>
void gather_tile(const Image& image, const Row& row, Index begin, Range channels) {
  using Lanes = Floats<lanes>;
  constexpr int places = (count - 1) * stride + width;
  const Index step = width == 1 ? image.stride : 1;
  for (Index due = channels.begin; due < channels.end; due += lanes) {
    const Index channel = vector_start<lanes>(due, image.channels);
    typename Lanes::Type sums[count] = {};
    for (const Strip& strip : row.strips) {
      const Index column = strip.column + begin * image.stride;
      const float* source =
          image.source + ((strip.row * image.columns + column) * image.channels + channel);
      const float* kernel = image.kernel + (strip.weights + channel);
      for_members<group>([&](auto member) __attribute__((always_inline)) {
        typename Lanes::Type weights[width];
#pragma GCC unroll 8
        for (int tap = 0; tap < width; ++tap) {
          weights[tap] = Lanes::load(kernel + tap * image.weight_pitch + member * image.channels);
        }
#pragma GCC unroll 64
        for (int place = 0; place < places; ++place) {
          const bool at_edge = width == 1 || place < width - 1 || place > places - width;
          if (at_edge && !is_within(column + place * step, image.columns)) continue;
          auto value =
              spread<group, member, lanes>(Lanes::load(source + place * step * image.channels));
          keep_in_register(value);
#pragma GCC unroll 8
          for (int tap = 0; tap < width; ++tap) {
            const int target = (place - tap) / stride;
            if (place >= tap && (place - tap) % stride == 0 && target < count) {
              sums[target] += weights[tap] * value;
            }
          }
        }
      });
    }
    float* result = image.result + (row.result + begin * image.result_pitch + channel);
    if (image.far) {
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) Lanes::store_past(result + i * image.result_pitch, sums[i]);
    } else {
#pragma GCC unroll 16
      for (int i = 0; i < count; ++i) Lanes::store(result + i * image.result_pitch, sums[i]);
    }
  }
}

// Number of results that are summed at once. Images are often 7, 14, 28, ... columns wide.
constexpr int kTile = kRegisters / 16 * 7;

// Computes all rows of a tile before the next tile. The channels are split into chunks so small
// that the sources shared by neighbouring rows stay in the nearest cache.
template <int lanes, int group, int width, int stride, int count = kTile>
void gather_tiles(const Image& image, const std::vector<Row>& rows, Range results,
                  Index kernel_rows) {
  constexpr Index places = (count - 1) * stride + width;
  const Index chunk = lanes * std::max<Index>(kNear / (places * kernel_rows * lanes), 1);
  for (; results.begin + count <= results.end; results.begin += count) {
    for (Index channel = 0; channel < image.channels; channel += chunk) {
      for (const Row& row : rows) {
        gather_tile<lanes, group, width, stride, count>(
            image, row, results.begin, {channel, std::min(channel + chunk, image.channels)});
      }
    }
  }
  if constexpr (count > 1) {
    gather_tiles<lanes, group, width, stride, (count + 1) / 2>(image, rows, results, kernel_rows);
  }
}

// Calls `body` with the width of the strips of a row's taps and the stride of the results, as
// constants. The taps of a strip wider than 1 share the sources that they read. Such strips check
// the bounds of the row only at the edges of a tile, so each result must have at least one source.
template <int lanes, int group, typename Body>
void with_strip_width(const Sweep& sweep, const Body& body) {
  const auto fits = [&](Index width, Index stride) {
    return sweep.taps == width && sweep.stride == stride && sweep.step == 1 &&
           sweep.first > -width && stride * (sweep.results - 1) + sweep.first < sweep.sources;
  };
  if constexpr (lanes == kLanes) {
    if constexpr (group == 1) {
      if (fits(5, 1)) return body(Constant<5>(), Constant<1>());
      if (fits(5, 2)) return body(Constant<5>(), Constant<2>());
    }
    if (fits(3, 1)) return body(Constant<3>(), Constant<1>());
    if (fits(3, 2)) return body(Constant<3>(), Constant<2>());
    if (fits(2, 1)) return body(Constant<2>(), Constant<1>());
  }
  body(Constant<1>(), Constant<1>());
}

// Computes the results of all images. Along each axis the results are interleaved: result `n`
// belongs to sweep `n % rows.size()` or `n % columns.size()`. `kernel` is [row, column, member of
// the source's group, channel of the result].
template <int lanes, int group>
void gather(xla::ffi::ThreadPool& pool, const Convolution& conv, const std::vector<Sweep>& rows,
            const std::vector<Sweep>& columns, Index height, Index width, const float* source,
            const float* kernel, float* result) {
  const Index channels = conv.output_channels();
  const Index kernel_pitch = group * channels;
  const Index row_phases = rows.size();
  const Index column_phases = columns.size();
  const Index source_rows = rows[0].sources;
  const Index source_pitch = columns[0].sources * channels;
  const Index size = height * width * channels + source_rows * source_pitch;
  const bool far = conv.batch * size > kFar;
  const Index parts = std::min(height, ceil_div(size, kTaskSize));
  parallel_for(pool, conv.batch * parts, [&](Index task) {
    thread_local std::vector<Row> band;
    const Index number = task / parts;
    const Index begin = part_start(height, parts, task % parts);
    band.resize(part_start(height, parts, task % parts + 1) - begin);
    const Index first = part_start(source_rows, parts, task % parts);
    const Index last = part_start(source_rows, parts, task % parts + 1);
    if (far) {
      fetch(source + (number * source_rows + first) * source_pitch, (last - first) * source_pitch);
    }
    for (Index phase = 0; phase < column_phases; ++phase) {
      const Sweep& sweep = columns[phase];
      with_strip_width<lanes, group>(sweep, [&](auto strip_width, auto stride) {
        for (Index i = 0; i < static_cast<Index>(band.size()); ++i) {
          band[i].result = (begin + i) * width * channels;
          band[i].strips.clear();
          cut_strips(rows[(begin + i) % row_phases], sweep, (begin + i) / row_phases, strip_width,
                     conv.columns.kernel * kernel_pitch, kernel_pitch, band[i].strips);
        }
        const Image image = {
            source + number * source_rows * source_pitch,
            kernel,
            result + (number * height * width + phase) * channels,
            channels,
            sweep.sources,
            sweep.stride,
            sweep.kernel_step * kernel_pitch,
            column_phases * channels,
            far && channels % lanes == 0 && reinterpret_cast<uintptr_t>(result) % 64 == 0,
        };
        gather_tiles<lanes, group, strip_width, stride>(image, band, {0, sweep.results},
                                                        conv.rows.kernel);
      });
    }
  });
}

template <int lanes, int group>
void gather_outputs(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* x,
                    const float* kernel, float* y) {
  gather<lanes, group>(pool, conv, {output_sweep(conv.rows)}, {output_sweep(conv.columns)},
                       conv.rows.output(), conv.columns.output(), x, kernel, y);
}

// `kernel` is [row, column, member of the output's group, channel of the input].
template <int lanes, int group>
void gather_input_gradient(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* dy,
                           const float* kernel, float* dx) {
  gather<lanes, group>(pool, conv, gradient_sweeps(conv.rows), gradient_sweeps(conv.columns),
                       conv.rows.size, conv.columns.size, dy, kernel, dx);
}

}  // namespace channelwise
}  // namespace cnn_jax
