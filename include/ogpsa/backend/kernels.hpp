#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ogpsa/tensor_view.hpp"

/// \file
/// Inner loops over contiguous memory. Sums run in a fixed number of lanes, so that the compiler can vectorise them and
/// the result does not depend on where in memory the data lies.

namespace ogpsa::detail {

inline constexpr Index kLanes = 16;

template <class T>
T sum_lanes(T (&lanes)[kLanes]) {
  for (Index width = kLanes / 2; width > 0; width /= 2) {
    for (Index l = 0; l < width; ++l) lanes[l] += lanes[l + width];
  }
  return lanes[0];
}

/// sum_i a_i b_i over n elements. A lane adds at most 32 products in the arithmetic type, the rest is added in double:
/// even where all roundings go one way (constant data) the error stays below 16 u.
template <class T>
double dot(const T* a, const T* b, Index n) {
  constexpr Index chunk = 32 * kLanes;
  double sum = 0;
  for (Index begin = 0; begin < n; begin += chunk) {
    const Index end = std::min(n, begin + chunk);
    T lanes[kLanes] = {};
    Index i = begin;
    for (; i + kLanes <= end; i += kLanes) {
      for (Index l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
    }
    for (Index l = 0; l < std::min(end - i, kLanes); ++l) lanes[l] += a[i + l] * b[i + l];
    sum += static_cast<double>(sum_lanes(lanes));
  }
  return sum;
}

/// sum_i x_i^2 in double, so that neither large nor tiny gradients leave the range of float.
template <class T>
double squared_norm(const T* x, Index n) {
  double lanes[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (Index l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  }
  for (Index l = 0; l < std::min(n - i, kLanes); ++l) {
    lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  }
  return sum_lanes(lanes);
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

/// y <- y - a x
template <class T>
void subtract_scaled(T* y, T a, const T* x, Index n) {
  for (Index i = 0; i < n; ++i) y[i] -= a * x[i];
}

template <class S, class T>
void convert(const S* from, T* to, Index n) {
  for (Index i = 0; i < n; ++i) to[i] = static_cast<T>(from[i]);
}

/// Elements [begin, begin + n) of a tensor as `T`: in place when that is how they are stored, else through `buffer`.
template <class T>
const T* load(ConstTensorView tensor, Index begin, Index n, T* buffer) {
  if (tensor.dtype == dtype_of<T>()) return static_cast<const T*>(tensor.data) + begin;
  visit_dtype(tensor.dtype, [&](auto* tag) {
    using S = std::remove_pointer_t<decltype(tag)>;
    convert(static_cast<const S*>(tensor.data) + begin, buffer, n);
  });
  return buffer;
}

/// Writes values back over elements [begin, begin + n) of a tensor.
template <class T>
void store(const T* values, Index n, TensorView tensor, Index begin) {
  visit_dtype(tensor.dtype, [&](auto* tag) { convert(values, static_cast<decltype(tag)>(tensor.data) + begin, n); });
}

/// Index of the first value with |x| >= 2^exponent, NaN or infinite, or -1. It reads the exponent's bits, so
/// -ffast-math is no danger.
template <class S>
Index find_beyond(const S* data, Index n, int exponent) {
  using Bits = std::conditional_t<sizeof(S) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint16_t>>;
  constexpr Bits mask = dtype_of<S>() == DType::float64    ? static_cast<Bits>(0x7ff0000000000000u)
                        : dtype_of<S>() == DType::float32  ? static_cast<Bits>(0x7f800000u)
                        : dtype_of<S>() == DType::bfloat16 ? static_cast<Bits>(0x7f80u)
                                                           : static_cast<Bits>(0x7c00u);
  constexpr Bits low = static_cast<Bits>(mask & (~mask + 1));
  constexpr Bits sign = static_cast<Bits>(mask + low);
  constexpr int infinite = static_cast<int>(mask / low);  // the exponent field of infinity and NaN
  const int field = std::clamp(exponent + infinite / 2, 1, infinite);
  // Adding this carries into the sign exactly where the exponent field is at least `field`.
  const Bits gap = static_cast<Bits>(static_cast<Bits>(infinite + 1 - field) * low);
  const auto carried = [data, gap](Index i) {
    Bits bits;
    std::memcpy(&bits, data + i, sizeof bits);
    return static_cast<Bits>((bits & mask) + gap);
  };
  constexpr Index chunk = 4096;
  for (Index begin = 0; begin < n; begin += chunk) {
    const Index end = std::min(n, begin + chunk);
    Bits any = 0;
    for (Index i = begin; i < end; ++i) any = static_cast<Bits>(any | carried(i));
    if (!(any & sign)) continue;
    for (Index i = begin; i < end; ++i) {
      if (carried(i) & sign) return i;
    }
  }
  return -1;
}

/// Index of the first value that is NaN or infinite, or -1.
template <class S>
Index find_non_finite(const S* data, Index n) {
  return find_beyond(data, n, 2000);
}

}  // namespace ogpsa::detail
