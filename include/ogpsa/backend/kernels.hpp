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

/// sum_i a_i b_i over n elements, in the arithmetic type (n is at most one granule, so the error stays small).
template <class T>
T dot(const T* a, const T* b, Index n) {
  T lanes[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (Index l = 0; l < kLanes; ++l) lanes[l] += a[i + l] * b[i + l];
  }
  for (Index l = 0; l < std::min(n - i, kLanes); ++l) lanes[l] += a[i + l] * b[i + l];
  return sum_lanes(lanes);
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

/// Index of the first value that is NaN or infinite, or -1. It reads the exponent's bits, so -ffast-math is no danger.
template <class S>
Index find_non_finite(const S* data, Index n) {
  using Bits = std::conditional_t<sizeof(S) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(S) == 4, std::uint32_t, std::uint16_t>>;
  constexpr Bits mask = dtype_of<S>() == DType::float64    ? static_cast<Bits>(0x7ff0000000000000u)
                        : dtype_of<S>() == DType::float32  ? static_cast<Bits>(0x7f800000u)
                        : dtype_of<S>() == DType::bfloat16 ? static_cast<Bits>(0x7f80u)
                                                           : static_cast<Bits>(0x7c00u);
  // Adding the exponent's lowest bit carries into the sign exactly where all of its bits are set.
  constexpr Bits low = static_cast<Bits>(mask & (~mask + 1));
  constexpr Bits sign = static_cast<Bits>(mask + low);
  const auto carried = [data](Index i) {
    Bits bits;
    std::memcpy(&bits, data + i, sizeof bits);
    return static_cast<Bits>((bits & mask) + low);
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

}  // namespace ogpsa::detail
