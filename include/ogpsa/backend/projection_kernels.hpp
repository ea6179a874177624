#pragma once

#include <cstring>
#include <type_traits>

#include "ogpsa/backend/basis_columns.hpp"
#include "ogpsa/backend/reductions.hpp"

/// \file
/// The two passes of a projection over contiguous memory. Sums run in lanes, as in reductions.hpp.

namespace ogpsa::detail {

/// A lane adds at most this many products in the arithmetic type, the rest is added in double: even where all roundings
/// go one way (constant data) the error of a sum stays below 16 u.
inline constexpr Index kProductsOfLane = 32;

/// Adds the lanes of a sum to its lanes in double, and clears them.
template <class T, class Lane, Index N>
OGPSA_ALWAYS_INLINE void carry(Lane (&lanes)[N], double (&sum)[kLanes]) {
  T values[kLanes];
  static_assert(sizeof values == sizeof lanes);
  std::memcpy(values, lanes, sizeof values);
  for (Index l = 0; l < kLanes; ++l) sum[l] += static_cast<double>(values[l]);
  for (Lane& lane : lanes) lane = Lane{};
}

/// A sum of squares of x that were added in lanes of T, or that in double where it left the range of T (or, of so many
/// small ones, all might have been lost).
template <class T>
double squared_norm_or(double sum, const T* x, Index n) {
  if constexpr (std::is_same_v<T, double>) return sum;
  return sum >= 0x1p-100 * static_cast<double>(n) && sum < 1e300 ? sum : squared_norm(x, n);
}

/// sum_i q_ik x_i for K columns q_k, and sum_i x_i^2, in one pass; added to sums[0 .. K - 1] and sums[K].
template <class T, int K, class S = T>
struct MeasureKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(BasisColumns<T, S> q, const T* x, Index n, double* sums) {
    using V = Vector<T, Bytes>;
    using Unaligned = typename V::Unaligned;
    constexpr Index chunk = kProductsOfLane * kLanes;
    double total[K + 1][kLanes] = {};
    Index i = 0;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type lanes[K + 1][kLanes / V::size] = {};
      for (i = begin; i + kLanes <= end; i += kLanes) {
#pragma GCC unroll 8
        for (Index v = 0; v < kLanes / V::size; ++v) {
          const typename V::Type values = *reinterpret_cast<const Unaligned*>(x + i + v * V::size);
#pragma GCC unroll 4
          for (Index k = 0; k < K; ++k) {
            typename V::Type column;
            q.template load<Bytes>(k, i + v * V::size, column);
            lanes[k][v] += values * column;
          }
          lanes[K][v] += values * values;
        }
      }
      for (Index k = 0; k <= K; ++k) carry<T>(lanes[k], total[k]);
    }
    for (Index l = 0; i + l < n; ++l) {
      for (Index k = 0; k < K; ++k) total[k][l] += static_cast<double>(x[i + l] * q.at(k, i + l));
      total[K][l] += static_cast<double>(x[i + l] * x[i + l]);
    }
    for (Index k = 0; k <= K; ++k) sums[k] += sum_lanes(total[k]);
  }
};

/// y <- keep x - sum_k c_k q_k for K columns q_k, in one pass; y may be x. Returns |y|^2.
template <class T, int K, class S = T>
struct ChangeKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static double run(T keep, const T* c, BasisColumns<T, S> q, const T* x, T* y, Index n) {
    using V = Vector<T, Bytes>;
    using Unaligned = typename V::Unaligned;
    constexpr Index chunk = kProductsOfLane * kLanes;
    double total[kLanes] = {};
    Index i = 0;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type squares[kLanes / V::size] = {};
      for (i = begin; i + kLanes <= end; i += kLanes) {
#pragma GCC unroll 8
        for (Index v = 0; v < kLanes / V::size; ++v) {
          typename V::Type value = keep * *reinterpret_cast<const Unaligned*>(x + i + v * V::size);
#pragma GCC unroll 4
          for (Index k = 0; k < K; ++k) {
            typename V::Type column;
            q.template load<Bytes>(k, i + v * V::size, column);
            value -= c[k] * column;
          }
          *reinterpret_cast<Unaligned*>(y + i + v * V::size) = value;
          squares[v] += value * value;
        }
      }
      carry<T>(squares, total);
    }
    for (Index l = 0; i + l < n; ++l) {
      T value = keep * x[i + l];
      for (Index k = 0; k < K; ++k) value -= c[k] * q.at(k, i + l);
      y[i + l] = value;
      total[l] += static_cast<double>(value * value);
    }
    return sum_lanes(total);
  }
};

/// Calls f(the number of columns as a constant, first column) so that all of `columns` are covered, four, two or one at
/// a time.
template <class F>
void in_groups_of_columns(Index columns, F&& f) {
  Index k = 0;
  for (; k + 4 <= columns; k += 4) f(std::integral_constant<int, 4>(), k);
  if (k + 2 <= columns) {
    f(std::integral_constant<int, 2>(), k);
    k += 2;
  }
  if (k < columns) f(std::integral_constant<int, 1>(), k);
}

}  // namespace ogpsa::detail
