// Calls the native kernels with random geometries and compares them with plain loops.
//
// `kernel_sweep.py` builds this program with sanitizers. Like XLA, it calls the kernels through
// their FFI handlers. The memory of each array has exactly the array's size, and empty arrays are
// null pointers. All numbers are multiples of 1/8 in [-1, 1], so that the sums are exact in
// float32 and the order of additions does not matter.
//
// Usage: kernel_sweep GEOMETRIES SEED [MISSING]. The arrays lack their last MISSING elements, which
// shows that the sanitizers work.

#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "kernel_sweep_calls.h"

#define DECLARE_HANDLER(name)                                                 \
  extern "C" XLA_FFI_Error* name##F32(XLA_FFI_CallFrame*);                    \
  /* Null if the processor has no bfloat16 instructions. */                   \
  extern "C" __attribute__((weak)) XLA_FFI_Error* name##BF16(XLA_FFI_CallFrame*); \
  template <typename Number>                                                  \
  XLA_FFI_Handler* name() {                                                   \
    return Number::kType == XLA_FFI_DataType_F32 ? name##F32 : name##BF16;    \
  }
DECLARE_HANDLER(ConvOutput)
DECLARE_HANDLER(ConvInputGradient)
DECLARE_HANDLER(ConvKernelGradient)
DECLARE_HANDLER(MaxPool)
DECLARE_HANDLER(MaxPoolGradient)
DECLARE_HANDLER(ChannelMoments)
DECLARE_HANDLER(ChannelSums)
DECLARE_HANDLER(ChannelPlanes)

using namespace sweep;

namespace {

struct Axis {
  Index size, kernel, stride, dilation, low, high;

  Index reach() const { return dilation * (kernel - 1) + 1; }
  Index output() const {
    const Index rest = size + low + high - reach();
    return rest < 0 ? 0 : rest / stride + 1;
  }
  // The input that output `o` reads through tap `k`, or -1 outside of the image.
  Index input(Index o, Index k) const {
    const Index place = stride * o + dilation * k - low;
    return place < size ? std::max<Index>(place, -1) : -1;
  }
  std::string text() const {
    std::string all = "{";
    for (const Index number : {size, kernel, stride, dilation, low, high}) {
      all += std::to_string(number) + (all.size() > 40 ? "" : " ");
    }
    return all + "}";
  }
};

// Returns an axis with at most `most` outputs; `is_extreme` allows unusual strides and paddings.
Axis random_axis(bool is_extreme, Index most = 60) {
  for (;;) {
    Axis axis;
    if (is_extreme) {
      axis.size = or_zero(pick({1, 1, 2, 3, between(1, 40)}));
      axis.kernel = pick({1, 2, 3, 5, between(1, 16), between(1, axis.size + 8)});
      axis.stride = pick({1, 2, between(1, 12), between(1, axis.size + 5)});
      axis.dilation = pick({1, 1, 2, 3, between(1, 12)});
      const Index far = axis.size + axis.reach() + 3;
      axis.low = pick({0, between(0, 2 * axis.kernel), between(0, far)});
      axis.high = pick({0, between(0, 2 * axis.kernel), between(0, far)});
    } else {
      axis = {between(1, 24),       pick({1, 1, 2, 3, 3, 5, 7}), pick({1, 1, 1, 2, 2, 3, 4}),
              pick({1, 1, 1, 2}), between(0, 3),               between(0, 3)};
    }
    // A window larger than the padded image has no outputs.
    if (axis.output() <= most && (axis.output() > 0 || chance(8))) return axis;
  }
}

struct Convolution {
  Index batch;
  Axis rows, columns;
  Index groups, inputs, outputs;

  Shape images() const { return {batch, rows.size, columns.size, groups * inputs}; }
  Shape kernel() const { return {rows.kernel, columns.kernel, inputs, groups * outputs}; }
  Shape results() const { return {batch, rows.output(), columns.output(), groups * outputs}; }
  // Multiplications of the output, and numbers of the largest array.
  double work() const {
    return double(batch) * rows.output() * columns.output() * rows.kernel * columns.kernel *
           groups * inputs * outputs;
  }
  double memory() const {
    return std::max(double(batch) * rows.size * columns.size * groups * inputs,
                    double(rows.kernel) * columns.kernel * groups * inputs * outputs);
  }
};

// Calls `body` with the indices of the image, the kernel and the result of each product.
template <typename Body>
void for_products(const Convolution& c, const Body& body) {
  const Index channels = c.groups * c.inputs, results = c.groups * c.outputs;
  for (Index b = 0; b < c.batch; ++b) {
    for (Index p = 0; p < c.rows.output(); ++p) {
      for (Index q = 0; q < c.columns.output(); ++q) {
        for (Index i = 0; i < c.rows.kernel; ++i) {
          for (Index j = 0; j < c.columns.kernel; ++j) {
            const Index h = c.rows.input(p, i), w = c.columns.input(q, j);
            if (h < 0 || w < 0) continue;
            const Index x = ((b * c.rows.size + h) * c.columns.size + w) * channels;
            const Index k = (i * c.columns.kernel + j) * c.inputs * results;
            const Index y = ((b * c.rows.output() + p) * c.columns.output() + q) * results;
            for (Index g = 0; g < c.groups; ++g) {
              for (Index m = 0; m < c.inputs; ++m) {
                for (Index o = g * c.outputs; o < (g + 1) * c.outputs; ++o) {
                  body(x + g * c.inputs + m, k + m * results + o, y + o);
                }
              }
            }
          }
        }
      }
    }
  }
}

Index random_channels() {
  return or_zero(pick({1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 64, 65, 97,
                       between(1, 40), between(1, 140), chance(9) ? 1024 : 1}));
}

Convolution random_convolution(bool is_large) {
  const bool is_extreme = !chance(3);
  Convolution c = {or_zero(pick({1, 1, 2, 3, 5, between(1, 9)})), random_axis(is_extreme),
                   random_axis(is_extreme), 1, 1, 1};
  if (is_large) {  // Results that exceed the caches.
    const Index size = between(380, 420);
    c.batch = 2;
    c.rows = c.columns = {size, pick({1, 3}), pick({1, 1, 2}), 1, 1, 1};
    c.groups = pick({16, 17, 32});
    return c;
  }
  switch (between(0, 3)) {
    case 0:
      c.inputs = random_channels();
      c.outputs = random_channels();
      break;
    case 1:
      c.groups = or_zero(pick({1, 2, 3, 5, 15, 16, 17, 31, 33, 64, between(1, 100)}));
      break;
    case 2:
      c.groups = pick({1, 2, 3, 4, 5, 7, 8, 9, between(1, 20)});
      c.inputs = c.outputs = pick({4, 8});
      break;
    default:
      c.groups = pick({2, 3, 4, between(1, 9)});
      c.inputs = pick({1, 2, 3, 5, 16, 17, 32, between(1, 30)});
      c.outputs = pick({1, 2, 3, 5, 16, 17, 33, between(1, 40)});
  }
  return c;
}

// `sums` are the channels that a kernel in bfloat16 adds in pairs.
template <typename Number>
bool is_supported(const Convolution& c, Index sums) {
  if constexpr (std::is_same_v<Number, Brain>) {
    return sums % 2 == 0 && (c.groups == 1 || c.inputs >= 16);
  }
  return true;
}

template <typename Number>
void try_convolution(const Convolution& c) {
  Array<Number> x(c.images()), kernel(c.kernel()), dy(c.results()), y(c.results()),
      dx(c.images()), dkernel(c.kernel());
  x.fill();
  kernel.fill();
  dy.fill();
  std::vector<double> sums_y(y.size()), sums_x(x.size()), sums_kernel(kernel.size());
  if (missing == 0) {
    for_products(c, [&](Index i, Index k, Index o) {
      sums_y[o] += x.get(i) * kernel.get(k);
      sums_x[i] += dy.get(o) * kernel.get(k);
      sums_kernel[k] += x.get(i) * dy.get(o);
    });
  }
  XLA_FFI_Array rows = {XLA_FFI_DataType_S64, 6, const_cast<Axis*>(&c.rows)};
  XLA_FFI_Array columns = {XLA_FFI_DataType_S64, 6, const_cast<Axis*>(&c.columns)};
  XLA_FFI_Scalar groups = {XLA_FFI_DataType_S64, const_cast<Index*>(&c.groups)};
  XLA_FFI_Scalar inputs = {XLA_FFI_DataType_S64, const_cast<Index*>(&c.inputs)};
  XLA_FFI_Scalar outputs = {XLA_FFI_DataType_S64, const_cast<Index*>(&c.outputs)};
  Attributes attributes;
  attributes.add("columns", XLA_FFI_AttrType_ARRAY, columns);
  attributes.add("groups", XLA_FFI_AttrType_SCALAR, groups);
  attributes.add("inputs", XLA_FFI_AttrType_SCALAR, inputs);
  attributes.add("outputs", XLA_FFI_AttrType_SCALAR, outputs);
  attributes.add("rows", XLA_FFI_AttrType_ARRAY, rows);
  if (is_supported<Number>(c, c.inputs)) {
    call(ConvOutput<Number>(), {x.buffer(), kernel.buffer()}, y.buffer(), attributes);
    y.expect("output", sums_y);
  }
  if (is_supported<Number>(c, c.outputs)) {
    call(ConvInputGradient<Number>(), {dy.buffer(), kernel.buffer()}, dx.buffer(), attributes);
    dx.expect("input gradient", sums_x);
  }
  if (is_supported<Number>(c, 2)) {
    call(ConvKernelGradient<Number>(), {x.buffer(), dy.buffer()}, dkernel.buffer(), attributes);
    dkernel.expect("kernel gradient", sums_kernel);
  }
}

template <typename Number>
bool try_random_convolution() {
  const bool is_large = chance(600);
  const Convolution c = random_convolution(is_large);
  if (!is_large && (c.work() > 5e5 || c.memory() > 3e5)) return false;
  geometry = "convolution: rows " + c.rows.text() + ", columns " + c.columns.text();
  for (const Index number : {c.batch, c.groups, c.inputs, c.outputs}) {
    geometry += " " + std::to_string(number);
  }
  try_convolution<Number>(c);
  return true;
}

// Maxima of windows, and the element of `x` that each comes from; -1 if a window has no pixels.
template <typename Number>
void maxima(const Array<Number>& x, Index batch, const Axis& rows, const Axis& columns,
            Index channels, std::vector<double>& values, std::vector<Index>& places) {
  Index y = 0;
  for (Index b = 0; b < batch; ++b) {
    for (Index p = 0; p < rows.output(); ++p) {
      for (Index q = 0; q < columns.output(); ++q) {
        for (Index c = 0; c < channels; ++c, ++y) {
          values[y] = -std::numeric_limits<double>::infinity();
          places[y] = -1;
          for (Index i = 0; i < rows.kernel; ++i) {
            for (Index j = 0; j < columns.kernel; ++j) {
              const Index h = rows.input(p, i), w = columns.input(q, j);
              if (h < 0 || w < 0) continue;
              const Index place = ((b * rows.size + h) * columns.size + w) * channels + c;
              const double value = x.get(place);
              if (places[y] >= 0 && !(value > values[y]) && !std::isnan(value)) continue;
              values[y] = value;
              places[y] = place;
            }
          }
        }
      }
    }
  }
}

template <typename Number>
bool try_random_pooling() {
  const bool is_extreme = !chance(3);
  Axis rows = random_axis(is_extreme), columns = random_axis(is_extreme);
  rows.dilation = columns.dilation = 1;
  const Index batch = or_zero(pick({1, 2, 3})), channels = random_channels();
  const Shape images = {batch, rows.size, columns.size, channels};
  const Shape results = {batch, rows.output(), columns.output(), channels};
  const double size = double(batch) * rows.output() * columns.output() * channels;
  if (rows.kernel * columns.kernel > 25 || size > 1e5) return false;
  geometry = "pooling: rows " + rows.text() + ", columns " + columns.text() + " " +
             std::to_string(batch) + " " + std::to_string(channels);
  Array<Number> x(images), y(results), dy(results), dx(images);
  const bool is_special = chance(5);
  x.fill([&] {
    if (is_special && chance(4)) return chance(2) ? std::nan("") : -double(INFINITY);
    return static_cast<double>(between(-8, 8)) / 8;
  });
  dy.fill();
  std::vector<double> values(y.size()), sums(x.size());
  std::vector<Index> places(y.size());
  if (missing == 0) {
    maxima(x, batch, rows, columns, channels, values, places);
    for (Index i = 0; i < y.size(); ++i) {
      if (places[i] >= 0) sums[places[i]] += dy.get(i);
    }
  }
  XLA_FFI_Array row_numbers = {XLA_FFI_DataType_S64, 6, &rows};
  XLA_FFI_Array column_numbers = {XLA_FFI_DataType_S64, 6, &columns};
  Attributes attributes;
  attributes.add("columns", XLA_FFI_AttrType_ARRAY, column_numbers);
  attributes.add("rows", XLA_FFI_AttrType_ARRAY, row_numbers);
  call(MaxPool<Number>(), {x.buffer()}, y.buffer(), attributes);
  y.expect("maximum", values);
  call(MaxPoolGradient<Number>(), {dy.buffer(), x.buffer()}, dx.buffer(), attributes);
  // A window with several NaN has no first maximum.
  if (!is_special) dx.expect("gradient of the maximum", sums);
  return true;
}

template <typename Number>
bool try_random_channels() {
  const Index channels = or_zero(pick({1, 2, 15, 16, 17, 31, 32, 33, between(1, 300), 1009}));
  const Index rows = or_zero(pick({1, 2, 7, 8, 9, between(1, 300), between(1, 3000)}));
  geometry = "channels: rows " + std::to_string(rows) + ", " + std::to_string(channels);
  const Shape images = {rows, 1, channels};
  Array<Number> x(images), y(images), z(images);
  Array<Float> centre({channels}), planes({4, channels}), sums({2, channels}),
      moments({2, channels});
  x.fill();
  y.fill();
  centre.fill();
  planes.fill();
  std::vector<double> exact_sums(2 * channels), exact_moments(2 * channels), exact_z(z.size());
  for (Index i = 0; i < (missing == 0 ? x.size() : 0); ++i) {
    const Index c = i % channels;
    exact_sums[c] += x.get(i);
    exact_sums[channels + c] += x.get(i) * (y.get(i) - centre.get(c));
    exact_z[i] = planes.get(c) + planes.get(channels + c) * x.get(i) +
                 planes.get(2 * channels + c) * (y.get(i) - planes.get(3 * channels + c));
  }
  for (Index c = 0; c < channels; ++c) exact_moments[c] = exact_sums[c] / rows;
  for (Index i = 0; i < (missing == 0 ? x.size() : 0); ++i) {
    const double deviation = x.get(i) - exact_moments[i % channels];
    exact_moments[channels + i % channels] += deviation * deviation / rows;
  }
  if (rows == 0) exact_moments.assign(2 * channels, std::nan(""));
  call(ChannelSums<Number>(), {x.buffer(), y.buffer(), centre.buffer()}, sums.buffer());
  sums.expect("sums of channels", exact_sums);
  call(ChannelMoments<Number>(), {x.buffer()}, moments.buffer());
  moments.expect("moments of channels", exact_moments, 1e-5);
  if (ChannelPlanes<Number>() != nullptr) {
    call(ChannelPlanes<Number>(), {planes.buffer(), x.buffer(), y.buffer()}, z.buffer());
    z.expect("planes of channels", exact_z);
  }
  return true;
}

template <typename Number>
bool try_random() {
  const Index kind = between(0, 9);
  if (kind == 0) return try_random_channels<Number>();
  const bool has_kernels = ConvOutput<Number>() != nullptr;
  if (!has_kernels) return false;
  return kind < 3 ? try_random_pooling<Number>() : try_random_convolution<Number>();
}

void print_geometry() { std::fprintf(stderr, "in %s\n", geometry.c_str()); }

}  // namespace

int main(int count, char** arguments) {
  if (count < 3) return 2;
  generator.seed(std::strtoull(arguments[2], nullptr, 10));
  if (count > 3) missing = std::atoll(arguments[3]);
  // AddressSanitizer calls the function. UndefinedBehaviorSanitizer aborts if its options say so.
  __sanitizer_set_death_callback(print_geometry);
  std::signal(SIGABRT, [](int) { print_geometry(); });
  const Index geometries = std::atoll(arguments[1]);
  Index tried[2] = {};
  while (tried[0] + tried[1] < geometries) {
    const bool is_half = chance(3);
    threads = chance(8) ? 3 : 1;
    tried[is_half] += is_half ? try_random<Brain>() : try_random<Float>();
  }
  std::printf("%ld geometries in float32, %ld in bfloat16, %ld mismatches\n",
              static_cast<long>(tried[0]), static_cast<long>(tried[1]),
              static_cast<long>(mismatches));
  return mismatches > 0;
}
