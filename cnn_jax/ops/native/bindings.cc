// XLA FFI handlers: the functions that XLA calls.

#include "channel_moments.h"
#include "channel_planes.h"
#include "channel_sums.h"
#include "dense.h"
#include "kernel_gradient.h"
#include "max_pool.h"
#include "small_groups.h"

namespace cnn_jax {
namespace {

namespace ffi = xla::ffi;

using Numbers = ffi::Span<const int64_t>;

Axis axis_of(const Numbers& numbers) {
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]};
}

// Returns the data of an operand or result, as a pointer to the element type of the kernels.
template <typename Element, typename Buffer>
Element* data(Buffer& buffer) {
  return reinterpret_cast<Element*>(buffer.typed_data());
}

// Fills `result` with zeros and returns true if it is empty or sums over nothing: the kernels divide
// by sizes.
template <typename First, typename Second, typename Result>
bool is_trivial(const First& first, const Second& second, Result& result) {
  if (result.element_count() == 0) return true;
  if (first.element_count() > 0 && second.element_count() > 0) return false;
  std::memset(result.untyped_data(), 0, result.size_bytes());
  return true;
}

// A convolution or one of its gradients. It calls `kSmallGroups` for small groups in float32, and
// `kDense` otherwise.
template <typename Number, ffi::DataType kType, auto kDense, auto kSmallGroups>
ffi::Error convolve(ffi::ThreadPool pool, ffi::Buffer<kType, 4> first,
                    ffi::Buffer<kType, 4> second, ffi::Result<ffi::Buffer<kType, 4>> result,
                    Numbers rows, Numbers columns, int64_t groups, int64_t inputs,
                    int64_t outputs) {
  using Element = typename Number::Element;
  if (is_trivial(first, second, *result)) return ffi::Error::Success();
  const Convolution conv{first.dimensions()[0], axis_of(rows), axis_of(columns),
                         groups,                inputs,        outputs};
  if constexpr (std::is_same_v<Number, Single>) {
    if (small_groups_covers(conv)) {
      kSmallGroups(pool, conv, data<float>(first), data<float>(second), data<float>(*result));
      return ffi::Error::Success();
    }
  }
  kDense(pool, conv, data<Element>(first), data<Element>(second), data<Element>(*result));
  return ffi::Error::Success();
}

// Binding of two operands, a result and the geometry of the windows.
template <ffi::DataType kType>
auto windows_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<kType, 4>>()
      .template Arg<ffi::Buffer<kType, 4>>()
      .template Ret<ffi::Buffer<kType, 4>>()
      .template Attr<Numbers>("rows")
      .template Attr<Numbers>("columns");
}

template <ffi::DataType kType>
auto convolve_binding() {
  return windows_binding<kType>()
      .template Attr<int64_t>("groups")
      .template Attr<int64_t>("inputs")
      .template Attr<int64_t>("outputs");
}

// Returns the number of pixels of [..., C].
template <ffi::DataType kType>
Index pixels_of(const ffi::Buffer<kType>& x) {
  Index pixels = 1;
  for (size_t axis = 0; axis + 1 < x.dimensions().size(); ++axis) pixels *= x.dimensions()[axis];
  return pixels;
}

template <typename Element, ffi::DataType kType>
ffi::Error moments_of_channels(ffi::ThreadPool pool, ffi::Buffer<kType> x,
                               ffi::Result<ffi::Buffer<ffi::F32>> moments) {
  channel_moments(pool, data<Element>(x), pixels_of(x), x.dimensions().back(),
                  moments->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType kType>
auto moments_of_channels_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<kType>>()
      .template Ret<ffi::Buffer<ffi::F32>>();
}

template <typename Element, ffi::DataType kType>
ffi::Error sum_channels(ffi::ThreadPool pool, ffi::Buffer<kType> x, ffi::Buffer<kType> y,
                        ffi::Buffer<ffi::F32> centre, ffi::Result<ffi::Buffer<ffi::F32>> sums) {
  channel_sums(pool, data<Element>(x), data<Element>(y), centre.typed_data(), pixels_of(x),
               x.dimensions().back(), sums->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType kType>
auto sum_channels_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<kType>>()
      .template Arg<ffi::Buffer<kType>>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Ret<ffi::Buffer<ffi::F32>>();
}

template <typename Number, ffi::DataType kType>
ffi::Error add_planes(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> planes, ffi::Buffer<kType> x,
                      ffi::Buffer<kType> y, ffi::Result<ffi::Buffer<kType>> result) {
  using Element = typename Number::Element;
  channel_planes<Number>(pool, planes.typed_data(), data<Element>(x), data<Element>(y),
                         pixels_of(x), x.dimensions().back(), data<Element>(*result));
  return ffi::Error::Success();
}

template <ffi::DataType kType>
auto add_planes_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<ffi::F32>>()
      .template Arg<ffi::Buffer<kType>>()
      .template Arg<ffi::Buffer<kType>>()
      .template Ret<ffi::Buffer<kType>>();
}

template <ffi::DataType kType>
Pooling pooling_of(const ffi::Buffer<kType, 4>& x, const Numbers& rows, const Numbers& columns) {
  return {x.dimensions()[0], axis_of(rows), axis_of(columns), x.dimensions()[3]};
}

template <typename Number, ffi::DataType kType>
ffi::Error pool_maxima(ffi::ThreadPool pool, ffi::Buffer<kType, 4> x,
                       ffi::Result<ffi::Buffer<kType, 4>> y, Numbers rows, Numbers columns) {
  using Element = typename Number::Element;
  if (y->element_count() == 0) return ffi::Error::Success();
  max_pool<Number>(pool, pooling_of(x, rows, columns), data<Element>(x), data<Element>(*y));
  return ffi::Error::Success();
}

template <ffi::DataType kType>
auto pool_maxima_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<kType, 4>>()
      .template Ret<ffi::Buffer<kType, 4>>()
      .template Attr<Numbers>("rows")
      .template Attr<Numbers>("columns");
}

template <typename Number, ffi::DataType kType>
ffi::Error scatter_maxima(ffi::ThreadPool pool, ffi::Buffer<kType, 4> dy, ffi::Buffer<kType, 4> x,
                          ffi::Result<ffi::Buffer<kType, 4>> dx, Numbers rows, Numbers columns) {
  using Element = typename Number::Element;
  if (is_trivial(dy, x, *dx)) return ffi::Error::Success();
  max_pool_gradient<Number>(pool, pooling_of(x, rows, columns), data<Element>(dy),
                            data<Element>(x), data<Element>(*dx));
  return ffi::Error::Success();
}

}  // namespace

// Defines the handlers for one element type.
#define CNN_JAX_DEFINE_HANDLERS(Number, Type)                                                   \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                \
      ConvOutput##Type,                                                                         \
      (convolve<Number, ffi::Type, dense_output<Number>, small_groups_output>),                 \
      convolve_binding<ffi::Type>());                                                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                \
      ConvInputGradient##Type,                                                                  \
      (convolve<Number, ffi::Type, dense_input_gradient<Number>, small_groups_input_gradient>), \
      convolve_binding<ffi::Type>());                                                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(                                                                \
      ConvKernelGradient##Type,                                                                 \
      (convolve<Number, ffi::Type, dense_kernel_gradient<Number>,                               \
                small_groups_kernel_gradient>),                                                 \
      convolve_binding<ffi::Type>());                                                           \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelPlanes##Type, (add_planes<Number, ffi::Type>),           \
                                add_planes_binding<ffi::Type>());                               \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(MaxPool##Type, (pool_maxima<Number, ffi::Type>),                \
                                pool_maxima_binding<ffi::Type>());                              \
  XLA_FFI_DEFINE_HANDLER_SYMBOL(MaxPoolGradient##Type, (scatter_maxima<Number, ffi::Type>),     \
                                windows_binding<ffi::Type>())

CNN_JAX_DEFINE_HANDLERS(Single, F32);
#if defined(CNN_JAX_HAS_BFLOAT16)
CNN_JAX_DEFINE_HANDLERS(Brain, BF16);
#endif

XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelMomentsF32, (moments_of_channels<float, ffi::F32>),
                              moments_of_channels_binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelMomentsBF16, (moments_of_channels<uint16_t, ffi::BF16>),
                              moments_of_channels_binding<ffi::BF16>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelSumsF32, (sum_channels<float, ffi::F32>),
                              sum_channels_binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelSumsBF16, (sum_channels<uint16_t, ffi::BF16>),
                              sum_channels_binding<ffi::BF16>());

}  // namespace cnn_jax
