// Float vectors of the machine's width, by the vector extension of GCC and Clang.

#pragma once

#include <cstdint>
#include <type_traits>

namespace cnn_jax {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kRegisters = 32;
#elif defined(__AVX__)
constexpr int kLanes = 8;
constexpr int kRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kRegisters = 16;
#endif

using Vector = float __attribute__((vector_size(kLanes * sizeof(float))));
using Index = int64_t;

inline Vector load(const float* from) {
  Vector vector;
  __builtin_memcpy(&vector, from, sizeof vector);
  return vector;
}

inline void store(float* to, Vector vector) { __builtin_memcpy(to, &vector, sizeof vector); }

constexpr Index ceil_div(Index dividend, Index divisor) {
  return (dividend + divisor - 1) / divisor;
}

// Start of part number `part` if `length` is divided into `parts` parts of nearly equal size.
constexpr Index part_start(Index length, Index parts, Index part) { return length * part / parts; }

template <int number>
using Constant = std::integral_constant<int, number>;

}  // namespace cnn_jax
