#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// What is asked of numbers in contiguous memory: their squared norm, the largest, the first that is too large. Sums
/// run in a fixed number of lanes, so that the compiler can vectorise them and the result does not depend on where in
/// memory the data lies.

namespace ogpsa::detail {

inline constexpr Index kLanes = 16;

template <class T>
OGPSA_ALWAYS_INLINE T sum_lanes(T (&lanes)[kLanes]) {
  for (Index width = kLanes / 2; width > 0; width /= 2) {
    for (Index l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

/// Sums of squares in double, one lane for each number of `kLanes`.
template <class T, int Bytes>
struct SquareLanes {
  using V = Vector<T, Bytes>;
  using Wide = Vector<double, Bytes>;
  typename Wide::Type lanes[kLanes / Wide::size] = {};

  /// Adds the squares of the v-th vector of kLanes numbers. It is taken apart in registers: to read it back from memory
  /// in halves, right after it was written, would wait for the store.
  OGPSA_ALWAYS_INLINE void add(const typename V::Type& x, Index v) {
    if constexpr (std::is_same_v<T, double>) {
      lanes[v] += x * x;
    } else {
      constexpr auto half = std::make_integer_sequence<int, V::size / 2>();
      add_part<0>(x, lanes[2 * v], half);
      add_part<V::size / 2>(x, lanes[2 * v + 1], half);
    }
  }
  template <int First, int... I>
  OGPSA_ALWAYS_INLINE static void add_part(const typename V::Type& x, typename Wide::Type& lane,
                                           std::integer_sequence<int, I...>) {
    const auto wide = __builtin_convertvector(__builtin_shufflevector(x, x, (First + I)...), typename Wide::Type);
    lane += wide * wide;
  }
  /// The sum of all, and of the squares of `count` < kLanes more numbers.
  OGPSA_ALWAYS_INLINE double total(const T* rest, Index count) const {
    double last[kLanes];
    std::memcpy(last, lanes, sizeof last);
    for (Index l = 0; l < count; ++l) last[l] += static_cast<double>(rest[l]) * static_cast<double>(rest[l]);
    return sum_lanes(last);
  }
};

template <class T>
struct SquaredNormKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static double run(const T* x, Index n) {
    using V = Vector<T, Bytes>;
    SquareLanes<T, Bytes> squares;
    Index i = 0;
    for (; i + kLanes <= n; i += kLanes) {
#pragma GCC unroll 8
      for (Index v = 0; v < kLanes / V::size; ++v) {
        const typename V::Type values = *reinterpret_cast<const typename V::Unaligned*>(x + i + v * V::size);
        squares.add(values, v);
      }
    }
    return squares.total(x + i, n - i);
  }
};

/// sum_i x_i^2 in double, so that neither large nor tiny gradients leave the range of float.
template <class T>
double squared_norm(const T* x, Index n) {
  return run_best<SquaredNormKernel<T>>(x, n);
}

/// max_i |x_i|, for finite x.
template <class T>
T max_abs(const T* x, Index n) {
  T lanes[kLanes] = {};
  const auto take = [](T& lane, T value) {
    const T magnitude = value < 0 ? -value : value;
    lane = lane < magnitude ? magnitude : lane;
  };
  Index i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (Index l = 0; l < kLanes; ++l) take(lanes[l], x[i + l]);
  }
  for (Index l = 0; l < std::min(n - i, kLanes); ++l) take(lanes[l], x[i + l]);
  return *std::max_element(lanes, lanes + kLanes);
}

/// Where the exponent stands in a storage type.
template <class S>
struct ExponentField {
  using Bits = std::conditional_t<sizeof(S) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint16_t>>;
  static constexpr Bits mask = dtype_of<S>() == DType::float64    ? static_cast<Bits>(0x7ff0000000000000u)
                               : dtype_of<S>() == DType::float32  ? static_cast<Bits>(0x7f800000u)
                               : dtype_of<S>() == DType::bfloat16 ? static_cast<Bits>(0x7f80u)
                                                                  : static_cast<Bits>(0x7c00u);
  static constexpr Bits low = static_cast<Bits>(mask & (~mask + 1));
  static constexpr int infinite = static_cast<int>(mask / low);  // the exponent field of infinity and NaN
};

/// Tells values by their exponent's bits, so -ffast-math is no danger.
template <class Bits>
struct FindBeyondKernel {
  /// `gap` carries into the sign exactly where the exponent field, under `mask`, is too large.
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static Index run(const void* values, Index n, Bits mask, Bits gap) {
    using V = Vector<Bits, Bytes>;
    const char* data = static_cast<const char*>(values);
    constexpr Bits sign = static_cast<Bits>(Bits{1} << (8 * sizeof(Bits) - 1));
    constexpr Index size = sizeof(Bits), chunk = 4096;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type any = {};
      Index i = begin;
      for (; i + V::size <= end; i += V::size) {
        any |= (*reinterpret_cast<const typename V::Unaligned*>(data + i * size) & mask) + gap;
      }
      Bits bits = 0;
      for (Index l = 0; l < V::size; ++l) bits = static_cast<Bits>(bits | any[l]);
      for (; i < end; ++i) bits = static_cast<Bits>(bits | carried(data + i * size, mask, gap));
      if (!(bits & sign)) continue;
      for (i = begin; i < end; ++i) {
        if (carried(data + i * size, mask, gap) & sign) return i;
      }
    }
    return -1;
  }
  OGPSA_ALWAYS_INLINE static Bits carried(const char* value, Bits mask, Bits gap) {
    Bits bits;
    std::memcpy(&bits, value, sizeof bits);
    return static_cast<Bits>((bits & mask) + gap);
  }
};

/// Index of the first value with |x| >= 2^exponent, NaN or infinite, or -1.
template <class S>
Index find_beyond(const S* data, Index n, int exponent) {
  using Field = ExponentField<S>;
  using Bits = typename Field::Bits;
  const int field = std::clamp(exponent + Field::infinite / 2, 1, Field::infinite);
  const Bits gap = static_cast<Bits>(static_cast<Bits>(Field::infinite + 1 - field) * Field::low);
  return run_best<FindBeyondKernel<Bits>>(static_cast<const void*>(data), n, Field::mask, gap);
}

/// Index of the first value that is NaN or infinite, or -1.
template <class S>
Index find_non_finite(const S* data, Index n) {
  return find_beyond(data, n, 2000);
}

}  // namespace ogpsa::detail
