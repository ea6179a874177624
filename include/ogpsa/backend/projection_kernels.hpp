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

/// A sum of n squares that were added in lanes of T, or what `in_double()` gives where that left the range of T (or, of
/// so many small ones, all might have been lost).
template <class T, class F>
double squared_norm_or(double sum, Index n, F&& in_double) {
  if constexpr (std::is_same_v<T, double>) return sum;
  return sum >= 0x1p-100 * static_cast<double>(n) && sum < 1e300 ? sum : in_double();
}

/// sum_i q_ik x_i for K columns q_k kept as S, and sum_i x_i^2 for x kept as X, in one pass; added to sums[0 .. K - 1]
/// and sums[K].
template <class T, int K, class S = T, class X = T>
struct MeasureKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(BasisColumns<T, S> q, const X* x, Index n, double* sums) {
    using V = Vector<T, Bytes>;
    constexpr Index chunk = kProductsOfLane * kLanes;
    const BasisColumns<T, X> xs{x, 0};
    double total[K + 1][kLanes] = {};
    Index i = 0;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type lanes[K + 1][kLanes / V::size] = {};
      for (i = begin; i + kLanes <= end; i += kLanes) {
#pragma GCC unroll 8
        for (Index v = 0; v < kLanes / V::size; ++v) {
          typename V::Type values;
          xs.template load<Bytes>(0, i + v * V::size, values);
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
      const T value = xs.at(0, i + l);
      for (Index k = 0; k < K; ++k) total[k][l] += static_cast<double>(value * q.at(k, i + l));
      total[K][l] += static_cast<double>(value * value);
    }
    for (Index k = 0; k <= K; ++k) sums[k] += sum_lanes(total[k]);
  }
};

/// x <- keep x - sum_k c_k q_k for x kept as X and K columns q_k kept as S, in one pass. Returns |x|^2 as it was before
/// it was rounded to X.
template <class T, int K, class S = T, class X = T>
struct ChangeKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static double run(T keep, const T* c, BasisColumns<T, S> q, X* x, Index n) {
    using V = Vector<T, Bytes>;
    constexpr Index chunk = kProductsOfLane * kLanes;
    const BasisColumns<T, X> xs{x, 0};
    double total[kLanes] = {};
    Index i = 0;
    for (Index begin = 0; begin < n; begin += chunk) {
      const Index end = begin + chunk < n ? begin + chunk : n;
      typename V::Type squares[kLanes / V::size] = {}, values[kLanes / V::size];
      for (i = begin; i + kLanes <= end; i += kLanes) {
#pragma GCC unroll 8
        for (Index v = 0; v < kLanes / V::size; ++v) {
          xs.template load<Bytes>(0, i + v * V::size, values[v]);
          values[v] *= keep;
#pragma GCC unroll 4
          for (Index k = 0; k < K; ++k) {
            typename V::Type column;
            q.template load<Bytes>(k, i + v * V::size, column);
            values[v] -= c[k] * column;
          }
          squares[v] += values[v] * values[v];
          if constexpr (std::is_same_v<X, T>)
            *reinterpret_cast<typename V::Unaligned*>(x + i + v * V::size) = values[v];
        }
        if constexpr (!std::is_same_v<X, T>) narrow<Bytes>(values, reinterpret_cast<std::uint16_t*>(x + i));
      }
      carry<T>(squares, total);
    }
    for (Index l = 0; i + l < n; ++l) {
      T value = keep * xs.at(0, i + l);
      for (Index k = 0; k < K; ++k) value -= c[k] * q.at(k, i + l);
      x[i + l] = static_cast<X>(value);
      total[l] += static_cast<double>(value * value);
    }
    return sum_lanes(total);
  }
};

/// How often `in_groups_of_columns` calls.
inline Index groups_of_columns(Index columns) { return columns / 4 + columns % 4 / 2 + columns % 2; }

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
