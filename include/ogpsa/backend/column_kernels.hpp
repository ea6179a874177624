#pragma once

#include <algorithm>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Products of a few columns with a few others, in double whatever the columns' type, four by four in registers.

namespace ogpsa::detail {

/// Columns that are taken at a time on each side of a product.
inline constexpr Index kColumns = 4;

/// V::size numbers of a column, in double.
template <class V, class T>
OGPSA_ALWAYS_INLINE void widen(const T* from, typename V::Type& to) {
  typedef T Narrow __attribute__((vector_size(V::size * sizeof(T)), aligned(alignof(T)), may_alias));
  to = __builtin_convertvector(*reinterpret_cast<const Narrow*>(from), typename V::Type);
}

/// Sum over n rows of a_r b_r, of which those before `first` are in the lanes.
template <class V, class T>
OGPSA_ALWAYS_INLINE double finish_sum(const typename V::Type& lanes, const T* a, const T* b, Index first, Index n) {
  double sum = 0;
  for (Index l = 0; l < V::size; ++l) sum += lanes[l];
  for (Index rest = first; rest < n; ++rest) sum += static_cast<double>(a[rest]) * static_cast<double>(b[rest]);
  return sum;
}

/// sums[i + 4 j] <- sum over n rows of a_i b_j, for four columns a_i and `Right` (1 or 4) columns b_j.
template <class T, int Right>
struct DotsKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const T* const* a, const T* const* b, Index n, double* sums) {
    using V = Vector<double, Bytes>;
    typename V::Type lanes[Right][kColumns] = {};
    Index r = 0;
    for (; r + V::size <= n; r += V::size) {
      typename V::Type x[kColumns];
#pragma GCC unroll 4
      for (Index i = 0; i < kColumns; ++i) widen<V>(a[i] + r, x[i]);
#pragma GCC unroll 4
      for (Index j = 0; j < Right; ++j) {
        typename V::Type y;
        widen<V>(b[j] + r, y);
#pragma GCC unroll 4
        for (Index i = 0; i < kColumns; ++i) lanes[j][i] += x[i] * y;
      }
    }
    for (Index j = 0; j < Right; ++j) {
      for (Index i = 0; i < kColumns; ++i) sums[i + kColumns * j] = finish_sum<V>(lanes[j][i], a[i], b[j], r, n);
    }
  }
};

/// sums[i + 4 j] <- sum over n rows of a_i a_j, for `Columns` (2 or 4) columns and i >= j.
template <class T, int Columns>
struct SquareKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const T* const* a, Index n, double* sums) {
    using V = Vector<double, Bytes>;
    typename V::Type lanes[Columns][Columns] = {};
    Index r = 0;
    for (; r + V::size <= n; r += V::size) {
      typename V::Type x[Columns];
#pragma GCC unroll 4
      for (Index i = 0; i < Columns; ++i) widen<V>(a[i] + r, x[i]);
#pragma GCC unroll 4
      for (Index j = 0; j < Columns; ++j) {
#pragma GCC unroll 4
        for (Index i = j; i < Columns; ++i) lanes[j][i] += x[i] * x[j];
      }
    }
    for (Index j = 0; j < Columns; ++j) {
      for (Index i = j; i < Columns; ++i) sums[i + kColumns * j] = finish_sum<V>(lanes[j][i], a[i], a[j], r, n);
    }
  }
};

/// sum_i + carry_i <- sum_i + carry_i + x_i for n sums that carry what they lose (Knuth's exact sum of two numbers).
struct CarriedSumKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* x, double* sum, double* carry, Index n) {
    using V = Vector<double, Bytes>;
    Index i = 0;
    for (; i + V::size <= n; i += V::size) add<V>(x + i, sum + i, carry + i);
    for (; i < n; ++i) add<Scalar>(x + i, sum + i, carry + i);
  }

 private:
  // In the place of a Vector. A type that is itself an argument of a template loses its attributes, the alignment.
  struct Scalar {
    using Type = double;
    using Unaligned = double;
  };
  template <class Width>
  OGPSA_ALWAYS_INLINE static void add(const double* x, double* sum, double* carry) {
    using V = typename Width::Type;
    using Memory = typename Width::Unaligned;
    const V a = *reinterpret_cast<const Memory*>(sum), b = *reinterpret_cast<const Memory*>(x);
    V total = a + b;
    V above = fenced(total) - a;
    V rest = total - fenced(above);
    V lost = a - fenced(rest);
    V missing = b - above;
    lost = fenced(lost) + fenced(missing);
    *reinterpret_cast<Memory*>(carry) += fenced(lost);
    *reinterpret_cast<Memory*>(sum) = total;
  }
};

/// to_j <- T(base_j + sum_k x[k + stride_x j] a_k) over n rows, for `Columns` columns j; without a base, it is zero.
/// Columns of a, of base and of `to` lie `stride_*` apart.
template <class T>
struct CombineTask {
  const T* a;
  Index stride_a, count;
  const double* x;
  Index stride_x;
  const T* base;
  Index stride_base;
  T* to;
  Index stride_to, n;
};

template <class T, int Columns>
struct CombineKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const CombineTask<T>* task) {
    using V = Vector<double, Bytes>;
    typedef T Narrow __attribute__((vector_size(V::size * sizeof(T)), aligned(alignof(T)), may_alias));
    const CombineTask<T> t = *task;
    Index r = 0;
    for (; r + 2 * V::size <= t.n; r += 2 * V::size) {
      typename V::Type upper[Columns] = {}, lower[Columns] = {};
      if (t.base != nullptr) {
#pragma GCC unroll 4
        for (Index j = 0; j < Columns; ++j) {
          const auto* base = reinterpret_cast<const Narrow*>(t.base + j * t.stride_base + r);
          upper[j] = __builtin_convertvector(base[0], typename V::Type);
          lower[j] = __builtin_convertvector(base[1], typename V::Type);
        }
      }
      for (Index k = 0; k < t.count; ++k) {
        const auto* column = reinterpret_cast<const Narrow*>(t.a + k * t.stride_a + r);
        const auto top = __builtin_convertvector(column[0], typename V::Type);
        const auto bottom = __builtin_convertvector(column[1], typename V::Type);
#pragma GCC unroll 4
        for (Index j = 0; j < Columns; ++j) {
          upper[j] += top * t.x[k + j * t.stride_x];
          lower[j] += bottom * t.x[k + j * t.stride_x];
        }
      }
#pragma GCC unroll 4
      for (Index j = 0; j < Columns; ++j) {
        auto* to = reinterpret_cast<Narrow*>(t.to + j * t.stride_to + r);
        to[0] = __builtin_convertvector(upper[j], Narrow);
        to[1] = __builtin_convertvector(lower[j], Narrow);
      }
    }
    for (; r < t.n; ++r) {
      for (Index j = 0; j < Columns; ++j) {
        double sum = t.base != nullptr ? static_cast<double>(t.base[j * t.stride_base + r]) : 0.0;
        for (Index k = 0; k < t.count; ++k)
          sum += static_cast<double>(t.a[k * t.stride_a + r]) * t.x[k + j * t.stride_x];
        t.to[j * t.stride_to + r] = static_cast<T>(sum);
      }
    }
  }
};

}  // namespace ogpsa::detail
