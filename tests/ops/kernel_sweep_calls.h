// Arrays and calls for `kernel_sweep.cc`: the part of XLA's FFI that the native kernels use.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "xla/ffi/api/c_api.h"

namespace sweep {

using Index = int64_t;
using Shape = std::vector<Index>;

inline std::mt19937_64 generator;
inline std::string geometry;  // Description of the current case.
inline Index missing = 0;     // Number of elements by which each array is too short.
inline Index mismatches = 0;
inline int threads = 1;

inline Index between(Index low, Index high) {
  return low + static_cast<Index>(generator() % static_cast<uint64_t>(high - low + 1));
}
inline Index pick(std::initializer_list<Index> choices) {
  return choices.begin()[generator() % choices.size()];
}
inline bool chance(Index one_in) { return between(1, one_in) == 1; }
// Most sizes are positive, few are zero.
inline Index or_zero(Index size) { return chance(60) ? 0 : size; }

struct Float {
  using Element = float;
  static constexpr XLA_FFI_DataType kType = XLA_FFI_DataType_F32;
  static float narrow(double value) { return static_cast<float>(value); }
  static double widen(float value) { return value; }
};

struct Brain {
  using Element = uint16_t;
  static constexpr XLA_FFI_DataType kType = XLA_FFI_DataType_BF16;
  static uint16_t narrow(double value) {  // Rounds to nearest, ties to even.
    const float single = static_cast<float>(value);
    uint32_t bits;
    std::memcpy(&bits, &single, sizeof bits);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 64);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
  }
  static double widen(uint16_t value) {
    const uint32_t bits = uint32_t{value} << 16;
    float single;
    std::memcpy(&single, &bits, sizeof single);
    return single;
  }
};

// An array, and its description for XLA.
template <typename Number>
class Array {
 public:
  using Element = typename Number::Element;

  explicit Array(Shape shape) : shape_(std::move(shape)) {
    for (const Index length : shape_) size_ *= length;
    const Index present = std::max<Index>(size_ - missing, 0);
    void* memory = nullptr;
    if (present > 0 && posix_memalign(&memory, 64, present * sizeof(Element)) != 0) std::abort();
    data_ = static_cast<Element*>(memory);
    if (present > 0) std::memset(memory, 0xff, present * sizeof(Element));  // NaN.
    buffer_ = {XLA_FFI_Buffer_STRUCT_SIZE,         nullptr,      Number::kType, memory,
               static_cast<int64_t>(shape_.size()), shape_.data()};
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { std::free(data_); }

  Index size() const { return size_; }
  XLA_FFI_Buffer* buffer() { return &buffer_; }
  double get(Index i) const { return Number::widen(data_[i]); }
  void set(Index i, double value) { data_[i] = Number::narrow(value); }

  void fill(const std::function<double()>& value) {
    for (Index i = 0; i < size_ - missing; ++i) set(i, value());
  }
  void fill() {
    fill([] { return static_cast<double>(between(-8, 8)) / 8; });
  }

  // Compares with the exact result, after rounding. `tolerance` is relative.
  void expect(const char* name, const std::vector<double>& exact, double tolerance = 0) const {
    for (Index i = 0; i < size_; ++i) {
      const double wanted = Number::widen(Number::narrow(exact[i])), got = get(i);
      if (std::isnan(wanted) ? std::isnan(got)
                             : std::fabs(got - wanted) <= tolerance * (1 + std::fabs(wanted)) ||
                                   got == wanted) {
        continue;
      }
      std::printf("MISMATCH %s element %ld: %g instead of %g: %s\n", name, static_cast<long>(i),
                  got, wanted, geometry.c_str());
      ++mismatches;
      return;
    }
  }

 private:
  Shape shape_;
  Index size_ = 1;
  Element* data_;
  XLA_FFI_Buffer buffer_;
};

// Attributes of a call, which XLA sorts by name.
struct Attributes {
  std::vector<XLA_FFI_AttrType> types;
  std::vector<XLA_FFI_ByteSpan> names;
  std::vector<void*> values;

  template <typename Value>
  void add(const char* name, XLA_FFI_AttrType type, Value& value) {
    types.push_back(type);
    names.push_back({name, std::strlen(name)});
    values.push_back(&value);
  }
};

inline XLA_FFI_Error* fail(XLA_FFI_Error_Create_Args* error) {
  std::fprintf(stderr, "the handler refuses the call: %s\n", error->message);
  std::abort();
}

inline std::vector<std::thread> helpers;

inline XLA_FFI_Api fake_xla() {
  XLA_FFI_Api api = {};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.XLA_FFI_Error_Create = fail;
  api.XLA_FFI_ThreadPool_NumThreads = [](XLA_FFI_ThreadPool_NumThreads_Args* arguments) {
    *arguments->num_threads = threads;
    return static_cast<XLA_FFI_Error*>(nullptr);
  };
  api.XLA_FFI_ThreadPool_Schedule = [](XLA_FFI_ThreadPool_Schedule_Args* arguments) {
    helpers.emplace_back(arguments->task, arguments->data);
    return static_cast<XLA_FFI_Error*>(nullptr);
  };
  return api;
}

inline void call(XLA_FFI_Handler* handler, std::vector<XLA_FFI_Buffer*> operands,
                 XLA_FFI_Buffer* result, Attributes attributes = {}) {
  static const XLA_FFI_Api api = fake_xla();
  std::vector<XLA_FFI_ArgType> operand_types(operands.size(), XLA_FFI_ArgType_BUFFER);
  XLA_FFI_RetType result_type = XLA_FFI_RetType_BUFFER;
  std::vector<void*> operand_pointers(operands.begin(), operands.end());
  void* result_pointer = result;
  std::vector<XLA_FFI_ByteSpan*> names;
  for (XLA_FFI_ByteSpan& name : attributes.names) names.push_back(&name);
  XLA_FFI_CallFrame frame = {};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, static_cast<int64_t>(operands.size()),
                operand_types.data(), operand_pointers.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, 1, &result_type, &result_pointer};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, static_cast<int64_t>(names.size()),
                 attributes.types.data(), names.data(), attributes.values.data()};
  if (handler(&frame) != nullptr) std::abort();
  for (std::thread& helper : helpers) helper.join();
  helpers.clear();
}

}  // namespace sweep
