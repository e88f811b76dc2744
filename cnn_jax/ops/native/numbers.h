// Element types of the kernels: `Single` for float32, `Brain` for bfloat16. Both sum in float32.

#pragma once

#include <cstring>

#include "vector.h"

#if defined(__AVX512BF16__)
#include <immintrin.h>
#define CNN_JAX_HAS_BFLOAT16
#endif

namespace cnn_jax {

// One step multiplies a `Tuple` of `kDepth` neighbouring values by `kDepth` weights for each lane,
// and adds the products to the sum of the lane.
struct Single {
  using Element = float;
  using Tuple = float;
  using Weights = Vector;
  static constexpr Index kDepth = 1;

  static Weights weights(const void* from) { return load(static_cast<const float*>(from)); }
  static float value(const void* from) { return *static_cast<const float*>(from); }
  static Tuple join(Element first, Element) { return first; }
  static Vector add(Vector sum, Weights weights, float value) { return sum + weights * value; }
  static void put(Element* to, Vector sums) { store(to, sums); }
};

#if defined(CNN_JAX_HAS_BFLOAT16)
struct Brain {
  using Element = uint16_t;
  using Tuple = uint32_t;
  using Weights = __m512bh;
  static constexpr Index kDepth = 2;

  static Weights weights(const void* from) {
    return reinterpret_cast<Weights>(_mm512_loadu_si512(from));
  }
  static Tuple join(Element first, Element second) { return first | Tuple{second} << 16; }
  static __m512bh value(const void* from) {
    int pair;
    __builtin_memcpy(&pair, from, sizeof pair);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
  }
  static Vector add(Vector sum, Weights weights, __m512bh value) {
    return _mm512_dpbf16_ps(sum, weights, value);
  }
  static void put(Element* to, Vector sums) {
    const __m256bh rounded = _mm512_cvtneps_pbh(sums);
    __builtin_memcpy(to, &rounded, sizeof rounded);
  }
};
#endif

// Interleaves `first` and `second` to tuples. If `second` is null, its values are zeros.
template <typename Number>
void join(const typename Number::Element* first, const typename Number::Element* second,
          Index size, typename Number::Tuple* to) {
  const auto join_all = [&](Index count) {
    for (Index i = 0; i < count; ++i) {
      to[i] = Number::join(first[i], second == nullptr ? 0 : second[i]);
    }
  };
  // With a constant size, the loop compiles to a few instructions.
  if (size == kLanes) {
    join_all(kLanes);
  } else if (size == 2 * kLanes) {
    join_all(2 * kLanes);
  } else {
    join_all(size);
  }
}

using Halves = uint16_t __attribute__((vector_size(kLanes * sizeof(uint16_t))));
using Words = uint32_t __attribute__((vector_size(kLanes * sizeof(uint32_t))));

inline Vector widen(const float* from) { return load(from); }

inline Vector widen(const uint16_t* from) {  // A bfloat16 is the upper half of a float.
  Halves halves;
  __builtin_memcpy(&halves, from, sizeof halves);
  return reinterpret_cast<Vector>(__builtin_convertvector(halves, Words) << 16);
}

// Loads `count` numbers, at most one vector. The other lanes are zeros.
template <typename Element>
Vector read(const Element* from, Index count) {
  if (count >= kLanes) return widen(from);
  Element all[kLanes] = {};
  std::memcpy(all, from, count * sizeof(Element));
  return widen(all);
}

// Stores the first `count` lanes, at most one vector.
template <typename Number>
void write(typename Number::Element* to, Index count, Vector values) {
  if (count >= kLanes) return Number::put(to, values);
  typename Number::Element all[kLanes];
  Number::put(all, values);
  std::memcpy(to, all, count * sizeof *all);
}

}  // namespace cnn_jax
