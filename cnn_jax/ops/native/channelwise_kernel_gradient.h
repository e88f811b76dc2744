// Kernel gradients of convolutions with small groups.

#pragma once

#include "channelwise.h"

namespace cnn_jax {
namespace channelwise {

// Number of sums of a kernel gradient that fit into the registers.
constexpr int kSums = kRegisters * 13 / 16;

// Some rows of results, and their sources. In all these rows the same taps read rows of the image.
struct Band {
  const float* source;
  const float* gradient;
  Index rows;
  Index channels;
  Index columns;     // Columns of the sources.
  Index row_stride;  // Source rows from one row of results to the next.
  Index stride;      // Source columns from one result to the next.
  Index step;        // Source columns from one tap to the next.
  Index results;     // Results of a row.
  Range inside;      // Results of a row whose taps all lie in the image.
  Index sum_pitch;
};

// Adds the products of a band to the sums of `count` strips, for some vectors of channels. Each
// lane belongs to an input channel, each member to an output channel of the lane's group.
template <int lanes, int group, int width, int count>
void correlate_strips(const Band& band, const Strip* strips, Range vectors, float* sums) {
  using Lanes = Floats<lanes>;
  const Index pitch = ceil_div(band.channels, lanes) * lanes;
  for (Index vector = vectors.begin; vector < vectors.end; ++vector) {
    const Index channel = vector_start<lanes>(vector * lanes, band.channels);
    typename Lanes::Type added[count][width][group] = {};
    for (Index row = 0; row < band.rows; ++row) {
      const float* gradient = band.gradient + (row * band.results * band.channels + channel);
      const float* sources[count];
      for (int i = 0; i < count; ++i) {
        const Index source_row = strips[i].row + row * band.row_stride;
        sources[i] = band.source + ((source_row * band.columns + strips[i].column) * band.channels +
                                    channel);
      }
      const auto add = [&](Range range, auto inside) __attribute__((always_inline)) {
        for (Index result = range.begin; result < range.end; ++result) {
          const auto all = Lanes::load(gradient + result * band.channels);
          for_members<group>([&](auto member) __attribute__((always_inline)) {
            const auto factor = spread<group, member, lanes>(all);
#pragma GCC unroll 8
            for (int i = 0; i < count; ++i) {
#pragma GCC unroll 8
              for (int tap = 0; tap < width; ++tap) {
                const Index column = result * band.stride + tap * band.step;
                if (!inside && !is_within(strips[i].column + column, band.columns)) continue;
                added[i][tap][member] += factor * Lanes::load(sources[i] + column * band.channels);
              }
            }
          });
        }
      };
      add({0, band.inside.begin}, Constant<0>());
      add(band.inside, Constant<1>());
      add({band.inside.end, band.results}, Constant<0>());
    }
    for (int i = 0; i < count; ++i) {
      for (int tap = 0; tap < width; ++tap) {
        for (int member = 0; member < group; ++member) {
          float* sum = sums + (strips[i].weights + tap * band.sum_pitch + member * pitch +
                               vector * lanes);
          Lanes::store(sum, Lanes::load(sum) + added[i][tap][member]);
        }
      }
    }
  }
}

// Adds the products of all strips, `count` strips at a time, then fewer for the rest.
template <int lanes, int group, int width, int count = 5>
void correlate_band(const Band& band, const Strip* strips, Index number, Range vectors,
                    float* sums) {
  if constexpr (count * width * group <= kSums || count == 1) {
    for (; number >= count; strips += count, number -= count) {
      correlate_strips<lanes, group, width, count>(band, strips, vectors, sums);
    }
  }
  if constexpr (count > 1) {
    constexpr int fewer = count == 5 ? 3 : count - 1;
    correlate_band<lanes, group, width, fewer>(band, strips, number, vectors, sums);
  }
}

// Calls `body` with the width of the strips of a row's taps, as a constant.
template <int group, int width = 5, typename Body>
void with_sums_width(Index taps, const Body& body) {
  if constexpr (width == 1) {
    body(Constant<1>());
  } else {
    if (width * group <= kSums && taps % width == 0) {
      body(Constant<width>());
    } else {
      with_sums_width<group, width == 5 ? 3 : width - 1>(taps, body);
    }
  }
}

// Kernel gradient, summed in parts. The number of parts affects rounding, so it does not depend on
// the number of threads.
template <int lanes, int group>
class Correlation {
 public:
  Correlation(const Convolution& conv, const float* x, const float* dy)
      : conv_(conv), x_(x), dy_(dy) {}

  void run(xla::ffi::ThreadPool& pool, float* dkernel) const {
    thread_local Scratch scratch;
    const Index blocks = std::min(ceil_div(vectors_, 4), ceil_div(32, parts_));
    float* sums = scratch.room<float>(parts_ * size_);
    parallel_for(pool, parts_ * blocks, [&](Index task) {
      const Index part = task / blocks;
      sum({part_start(all_rows_, parts_, part), part_start(all_rows_, parts_, part + 1)},
          {part_start(vectors_, blocks, task % blocks),
           part_start(vectors_, blocks, task % blocks + 1)},
          sums + part * size_);
    });
    parallel_for(pool, conv_.taps(), [&](Index tap) {
      float* total = sums + tap * tap_size_;
      for (Index part = 1; part < parts_; ++part) {
        for (Index i = 0; i < tap_size_; ++i) total[i] += total[part * size_ + i];
      }
      write(total, dkernel + tap * group * channels_);
    });
  }

 private:
  // Sums one part. `rows` counts the rows of results of all images.
  void sum(Range rows, Range vectors, float* sums) const {
    for (Index i = 0; i < size_; i += vectors_ * lanes) {
      std::fill(sums + i + vectors.begin * lanes, sums + i + vectors.end * lanes, 0.0f);
    }
    const Index near_rows = conv_.rows.kernel * columns_.sources + columns_.results;
    const Index chunk = std::max<Index>(kNear / (near_rows * lanes), 1);
    const Index most = std::max<Index>(kTaskSize / (source_pitch_ + result_pitch_), 1);
    for (Index begin = rows.begin; begin < rows.end; begin += most) {
      const Index end = std::min(begin + most, rows.end);
      if (all_rows_ * (source_pitch_ + result_pitch_) > kFar) {
        fetch(x_ + begin * source_pitch_, (end - begin) * source_pitch_);
        fetch(dy_ + begin * result_pitch_, (end - begin) * result_pitch_);
      }
      for (Index vector = vectors.begin; vector < vectors.end; vector += chunk) {
        sum_near({begin, end}, {vector, std::min(vector + chunk, vectors.end)}, sums);
      }
    }
  }

  void sum_near(Range rows, Range vectors, float* sums) const {
    thread_local std::vector<Strip> strips;
    for (Index row = rows.begin; row < rows.end;) {
      const Index image = row / rows_.results;
      const Index result = row % rows_.results;
      const bool inside = result >= inside_rows_.begin && result < inside_rows_.end;
      const Index count = inside ? std::min(inside_rows_.end - result, rows.end - row) : 1;
      const Band band = {x_ + image * rows_.sources * columns_.sources * channels_,
                         dy_ + row * result_pitch_,
                         count,
                         channels_,
                         columns_.sources,
                         rows_.stride,
                         columns_.stride,
                         columns_.step,
                         columns_.results,
                         inside_columns_,
                         tap_size_};
      with_sums_width<group>(columns_.taps, [&](auto width) {
        strips.clear();
        cut_strips(rows_, columns_, result, width, columns_.taps * tap_size_, tap_size_, strips);
        correlate_band<lanes, group, width>(band, strips.data(), strips.size(), vectors, sums);
      });
      row += count;
    }
  }

  void write(const float* sums, float* dkernel) const {
    for (Index i = 0; i < group * vectors_; ++i) {
      const Index member = i / vectors_;
      const Index start = vector_start<lanes>(i % vectors_ * lanes, channels_);
      for (int lane = 0; lane < lanes; ++lane) {
        const Index output = start + lane / group * group + member;
        dkernel[lane % group * channels_ + output] = sums[i * lanes + lane];
      }
    }
  }

  // The results whose sources all lie in the image.
  static Range inside(const Axis& axis) {
    const Index begin = outputs_within(axis, 0).begin;
    return {begin, std::max(begin, outputs_within(axis, axis.kernel - 1).end)};
  }

  const Convolution& conv_;
  const float* x_;
  const float* dy_;
  const Sweep rows_ = output_sweep(conv_.rows);
  const Sweep columns_ = output_sweep(conv_.columns);
  const Range inside_rows_ = inside(conv_.rows);
  const Range inside_columns_ = inside(conv_.columns);
  const Index channels_ = conv_.output_channels();
  const Index vectors_ = ceil_div(channels_, lanes);
  const Index tap_size_ = group * vectors_ * lanes;
  const Index size_ = conv_.taps() * tap_size_;
  const Index all_rows_ = conv_.batch * rows_.results;
  const Index parts_ = std::clamp<Index>(all_rows_ * columns_.results / 256, 1, 32);
  const Index result_pitch_ = columns_.results * channels_;
  // Average number of source values for each row of results.
  const Index source_pitch_ =
      rows_.sources * columns_.sources * channels_ / std::max<Index>(rows_.results, 1);
};

template <int lanes, int group>
void correlate(xla::ffi::ThreadPool& pool, const Convolution& conv, const float* x,
               const float* dy, float* dkernel) {
  Correlation<lanes, group>(conv, x, dy).run(pool, dkernel);
}

}  // namespace channelwise
}  // namespace cnn_jax
