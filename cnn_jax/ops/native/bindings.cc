// What XLA calls.

#include "channel_sums.h"
#include "dense.h"
#include "kernel_gradient.h"
#include "small_groups.h"

namespace cnn_jax {
namespace {

namespace ffi = xla::ffi;

using Numbers = ffi::Span<const int64_t>;

Axis axis_of(const Numbers& numbers) {
  return {numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]};
}

Convolution convolution_of(Index batch, Index inputs, Index outputs, Numbers rows, Numbers columns,
                           int64_t groups) {
  return {batch, axis_of(rows), axis_of(columns), groups, inputs / groups, outputs / groups};
}

template <typename Number, ffi::DataType kType>
struct Handlers {
  using Element = typename Number::Element;
  using Images = ffi::Buffer<kType, 4>;
  static constexpr bool kIsSingle = std::is_same_v<Element, float>;

  static const Element* data(Images& images) {
    return reinterpret_cast<const Element*>(images.typed_data());
  }
  static Element* data(ffi::Result<Images>& images) {
    return reinterpret_cast<Element*>(images->typed_data());
  }

  static ffi::Error output(ffi::ThreadPool pool, Images x, Images kernel, ffi::Result<Images> y,
                           Numbers rows, Numbers columns, int64_t groups) {
    const auto conv = convolution_of(x.dimensions()[0], x.dimensions()[3], y->dimensions()[3],
                                     rows, columns, groups);
    if constexpr (kIsSingle) {
      if (small_groups_covers(conv)) {
        small_groups_output(pool, conv, data(x), data(kernel), data(y));
        return ffi::Error::Success();
      }
    }
    dense_output<Number>(pool, conv, data(x), data(kernel), data(y));
    return ffi::Error::Success();
  }

  static ffi::Error input_gradient(ffi::ThreadPool pool, Images dy, Images kernel,
                                   ffi::Result<Images> dx, Numbers rows, Numbers columns,
                                   int64_t groups) {
    const auto conv = convolution_of(dy.dimensions()[0], dx->dimensions()[3], dy.dimensions()[3],
                                     rows, columns, groups);
    if constexpr (kIsSingle) {
      if (small_groups_covers(conv)) {
        small_groups_input_gradient(pool, conv, data(dy), data(kernel), data(dx));
        return ffi::Error::Success();
      }
    }
    dense_input_gradient<Number>(pool, conv, data(dy), data(kernel), data(dx));
    return ffi::Error::Success();
  }

  static ffi::Error kernel_gradient(ffi::ThreadPool pool, Images x, Images dy,
                                    ffi::Result<Images> dkernel, Numbers rows, Numbers columns,
                                    int64_t groups) {
    const auto conv = convolution_of(x.dimensions()[0], x.dimensions()[3], dy.dimensions()[3],
                                     rows, columns, groups);
    if constexpr (kIsSingle) {
      if (small_groups_covers(conv)) {
        small_groups_kernel_gradient(pool, conv, data(x), data(dy), data(dkernel));
        return ffi::Error::Success();
      }
    }
    KernelGradient<Number>(conv, data(x), data(dy)).run(pool, data(dkernel));
    return ffi::Error::Success();
  }

  static auto binding() {
    return ffi::Ffi::Bind()
        .Ctx<ffi::ThreadPool>()
        .template Arg<Images>()
        .template Arg<Images>()
        .template Ret<Images>()
        .template Attr<Numbers>("rows")
        .template Attr<Numbers>("columns")
        .template Attr<int64_t>("groups");
  }
};

using SingleHandlers = Handlers<Single, ffi::F32>;
#if defined(CNN_JAX_HAS_BFLOAT16)
using BrainHandlers = Handlers<Brain, ffi::BF16>;
#endif

template <typename Element, ffi::DataType kType>
ffi::Error channel_sums_of(ffi::ThreadPool pool, ffi::Buffer<kType> x, ffi::Buffer<kType> y,
                           ffi::Result<ffi::Buffer<ffi::F32>> sums) {
  const Index channels = x.dimensions().back();
  channel_sums(pool, reinterpret_cast<const Element*>(x.typed_data()),
               reinterpret_cast<const Element*>(y.typed_data()), x.element_count() / channels,
               channels, sums->typed_data());
  return ffi::Error::Success();
}

template <ffi::DataType kType>
auto sums_binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::ThreadPool>()
      .template Arg<ffi::Buffer<kType>>()
      .template Arg<ffi::Buffer<kType>>()
      .template Ret<ffi::Buffer<ffi::F32>>();
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvOutputF32, SingleHandlers::output, SingleHandlers::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvInputGradientF32, SingleHandlers::input_gradient,
                              SingleHandlers::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvKernelGradientF32, SingleHandlers::kernel_gradient,
                              SingleHandlers::binding());
#if defined(CNN_JAX_HAS_BFLOAT16)
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvOutputBF16, BrainHandlers::output, BrainHandlers::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvInputGradientBF16, BrainHandlers::input_gradient,
                              BrainHandlers::binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ConvKernelGradientBF16, BrainHandlers::kernel_gradient,
                              BrainHandlers::binding());
#endif

XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelSumsF32, (channel_sums_of<float, ffi::F32>),
                              sums_binding<ffi::F32>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(ChannelSumsBF16, (channel_sums_of<uint16_t, ffi::BF16>),
                              sums_binding<ffi::BF16>());

}  // namespace cnn_jax
