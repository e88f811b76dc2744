// Code shared by convolutions in which each output channel reads one input channel or a small
// group.
//
// Vectors run over the channels, and several neighbouring results of a row are summed at once. With
// groups of one channel, lanes are independent. With larger groups, a lane reads the other lanes of
// its group, which are in the same vector.

#pragma once

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "geometry.h"
#include "parallel.h"
#include "vector.h"

namespace cnn_jax {
namespace channelwise {

// Number of source and result values of one task, to stay in a core's own cache.
constexpr Index kTaskSize = 1 << 17;

// Number of source values that stay in the nearest cache while several rows read them.
constexpr Index kNear = 6 << 10;

// Arrays with more values than this do not stay in the caches until the next operation reads them.
constexpr Index kFar = 4 << 20;

template <int lanes>
struct Floats {
  typedef float Type __attribute__((vector_size(lanes * sizeof(float))));

  static Type load(const float* from) {
    Type vector;
    __builtin_memcpy(&vector, from, sizeof vector);
    return vector;
  }

  static void store(float* to, Type vector) { __builtin_memcpy(to, &vector, sizeof vector); }

  // Non-temporal store: it bypasses the caches, so that memory is not read first. `to` must be
  // aligned to a vector. Other threads see the value after the next locked instruction, which ends
  // each task.
  template <typename Value>
  static void store_past(float* to, Value vector) {
#if defined(__clang__)
    __builtin_nontemporal_store(vector, reinterpret_cast<Value*>(to));
#elif defined(__AVX512F__)
    if constexpr (lanes == 16) return __builtin_ia32_movntps512(to, vector);
#elif defined(__AVX__)
    if constexpr (lanes == 8) return __builtin_ia32_movntps256(to, vector);
#endif
    store(to, vector);
  }
};

// Reads an array sequentially into the cache. Later reads in another order would be slow from
// memory.
inline void fetch(const float* from, Index size) {
  constexpr Index kLine = 64 / sizeof(float);
  for (Index i = 0; i < size; i += kLine) *static_cast<const volatile float*>(from + i);
}

// Calls `body` with each of 0, 1, ..., count - 1 as a constant.
template <int count, typename Body>
[[gnu::always_inline]] inline void for_members(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(Constant<i>()), ...);
  }(std::make_integer_sequence<int, count>());
}

template <int group, int member, int lanes, int... lane>
typename Floats<lanes>::Type spread_lanes(typename Floats<lanes>::Type vector,
                                          std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(vector, vector, (lane / group * group + member)...);
}

// Copies the lane `member` of each group to all lanes of the group.
template <int group, int member, int lanes>
typename Floats<lanes>::Type spread(typename Floats<lanes>::Type vector) {
  if constexpr (group == 1) {
    return vector;
  } else {
    return spread_lanes<group, member, lanes>(vector, std::make_integer_sequence<int, lanes>());
  }
}

// Keeps a value in a register: the compiler would otherwise load it again for each use.
template <typename Value>
[[gnu::always_inline]] inline void keep_in_register([[maybe_unused]] Value& value) {
#if defined(__x86_64__)
  if constexpr (sizeof(Value) >= 16) asm("" : "+x"(value));
#endif
}

// First channel of the vector for `channel`. The last vector overlaps the one before it rather than
// reach beyond the last channel.
template <int lanes>
Index vector_start(Index channel, Index channels) {
  return std::min(channel, channels - lanes);
}

constexpr bool is_within(Index place, Index size) {
  return static_cast<uint64_t>(place) < static_cast<uint64_t>(size);
}

// Geometry of the results along one axis. Result `t` sums, over its taps `j`, the source
// `stride t + step j + first` times the weight of the kernel's tap `kernel_first + kernel_step j`.
struct Sweep {
  Index results;
  Index sources;
  Index taps;
  Index stride;
  Index step;
  Index first;
  Index kernel_first;
  Index kernel_step;
};

inline Sweep output_sweep(const Axis& axis) {
  return {axis.output(), axis.size, axis.kernel, axis.stride, axis.dilation, -axis.low, 0, 1};
}

// Geometry of one phase of the input gradient: the inputs `phase`, `phase + stride`, ... They have
// the same taps and are the results of a convolution of stride 1.
inline Sweep gradient_sweep(const Axis& axis, Index phase) {
  const Index common = std::gcd(axis.stride, axis.dilation);
  const Index tap_step = axis.stride / common;
  const auto distance = [&](Index tap) { return phase + axis.low - axis.dilation * tap; };
  Index last = axis.kernel - 1;
  while (last >= 0 && distance(last) % axis.stride != 0) --last;
  const Index taps = last < 0 ? 0 : last / tap_step + 1;
  const Index first = last < 0 ? 0 : distance(last) / axis.stride;
  return {ceil_div(axis.size - phase, axis.stride), axis.output(), taps, 1,
          axis.dilation / common, first, last, -tap_step};
}

inline std::vector<Sweep> gradient_sweeps(const Axis& axis) {
  std::vector<Sweep> sweeps;
  for (Index phase = 0; phase < axis.stride; ++phase) {
    sweeps.push_back(gradient_sweep(axis, phase));
  }
  return sweeps;
}

// Some neighbouring taps of a kernel row: the row and column of the source that result 0 reads
// through the first tap, and the offset of the weights, or sums, of this tap.
struct Strip {
  Index row;
  Index column;
  Index weights;
};

struct Row {
  Index result;
  std::vector<Strip> strips;
};

// Cuts the taps of row `result` whose source row lies in the image into strips.
inline void cut_strips(const Sweep& rows, const Sweep& columns, Index result, Index width,
                       Index row_pitch, Index pitch, std::vector<Strip>& strips) {
  for (Index i = 0; i < rows.taps; ++i) {
    const Index row = rows.stride * result + rows.step * i + rows.first;
    if (!is_within(row, rows.sources)) continue;
    for (Index j = 0; j < columns.taps; j += width) {
      strips.push_back({row, columns.step * j + columns.first,
                        (rows.kernel_first + rows.kernel_step * i) * row_pitch +
                            (columns.kernel_first + columns.kernel_step * j) * pitch});
    }
  }
}

// Calls `body` with the number of lanes as a constant. Vectors are shorter if there are few
// channels.
template <int group, typename Body>
void with_lanes(const Convolution& conv, const Body& body) {
  if (conv.output_channels() >= kLanes) {
    body(Constant<kLanes>());
  } else {
    body(Constant<group>());
  }
}

// Calls `body` with the number of lanes and the number of channels of a group, as constants.
template <typename Body>
void with_group(const Convolution& conv, const Body& body) {
  const auto with = [&](auto group) {
    with_lanes<group>(conv, [&](auto lanes) { body(lanes, group); });
  };
  if (conv.inputs == 1) return with(Constant<1>());
  if (conv.inputs == 4) return with(Constant<4>());
  if constexpr (kLanes >= 8) with(Constant<8>());
}

}  // namespace channelwise
}  // namespace cnn_jax
