#pragma once

#include <algorithm>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Products of a few columns with a few others, in double, four by four in registers.

namespace ogpsa::detail {

/// Columns that are taken at a time on each side of a product.
inline constexpr Index kColumns = 4;

/// to <- from, in double; asks for as much as follows, of which the next panel is made.
template <class T>
struct WidenKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const T* from, double* to, Index n) {
    using V = Vector<double, Bytes>;
    typedef T Narrow __attribute__((vector_size(V::size * sizeof(T)), aligned(alignof(T)), may_alias));
    constexpr Index line = 64 / sizeof(T);
    Index i = 0;
    for (; i + line <= n; i += line) {
      __builtin_prefetch(from + n + i, 0, 2);
#pragma GCC unroll 8
      for (Index v = 0; v < line; v += V::size) {
        const auto& narrow = *reinterpret_cast<const Narrow*>(from + i + v);
        *reinterpret_cast<typename V::Unaligned*>(to + i + v) = __builtin_convertvector(narrow, typename V::Type);
      }
    }
    for (; i < n; ++i) to[i] = static_cast<double>(from[i]);
  }
};

/// V::size numbers of a column, in double.
template <class V, class S>
OGPSA_ALWAYS_INLINE void widen(const S* from, typename V::Type& to) {
  typedef S Narrow __attribute__((vector_size(V::size * sizeof(S)), aligned(alignof(S)), may_alias));
  to = __builtin_convertvector(*reinterpret_cast<const Narrow*>(from), typename V::Type);
}

/// The sum of a vector's numbers, halves first.
template <int Bytes>
OGPSA_ALWAYS_INLINE double sum_of(const typename Vector<double, Bytes>::Type& x) {
  if constexpr (Bytes == 16) {
    return x[0] + x[1];
  } else if constexpr (Bytes == 32) {
    return sum_of<16>(__builtin_shufflevector(x, x, 0, 1) + __builtin_shufflevector(x, x, 2, 3));
  } else {
    return sum_of<32>(__builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7));
  }
}

/// sum + the products of the rows [first, n) of two columns.
template <class S>
OGPSA_ALWAYS_INLINE double add_rows(double sum, const S* a, const S* b, Index first, Index n) {
  for (Index r = first; r < n; ++r) sum += static_cast<double>(a[r]) * static_cast<double>(b[r]);
  return sum;
}

/// sums[i + 4 j] <- sum over n rows of a_i b_j, for four columns a_i and `Right` (1 or 4) columns b_j.
template <class S, int Right>
struct DotsKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const S* const* a, const S* const* b, Index n, double* sums) {
    constexpr int at_once = std::min(Right, Bytes == 64 ? 4 : 2);  // all sums stay in registers
    for (Index j = 0; j < Right; j += at_once) multiply<Bytes, at_once>(a, b + j, n, sums + kColumns * j);
  }

 private:
  template <int Bytes, int Count>
  OGPSA_ALWAYS_INLINE static void multiply(const S* const* a, const S* const* b, Index n, double* sums) {
    using V = Vector<double, Bytes>;
    typename V::Type lanes[Count][kColumns] = {};
    Index r = 0;
    for (; r + V::size <= n; r += V::size) {
      typename V::Type x[kColumns];
#pragma GCC unroll 4
      for (Index i = 0; i < kColumns; ++i) {
        widen<V>(a[i] + r, x[i]);
        keep_in_register(x[i]);
      }
#pragma GCC unroll 4
      for (Index j = 0; j < Count; ++j) {
        typename V::Type y;
        widen<V>(b[j] + r, y);
#pragma GCC unroll 4
        for (Index i = 0; i < kColumns; ++i) lanes[j][i] += x[i] * y;
      }
    }
#pragma GCC unroll 4
    for (Index j = 0; j < Count; ++j) {
#pragma GCC unroll 4
      for (Index i = 0; i < kColumns; ++i) {
        sums[i + kColumns * j] = add_rows(sum_of<Bytes>(lanes[j][i]), a[i], b[j], r, n);
      }
    }
  }
};

/// sums[i + 4 j] <- sum over n rows of a_i a_j, for `Columns` (2 or 4) columns and i >= j.
template <class S, int Columns>
struct SquareKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const S* const* a, Index n, double* sums) {
    using V = Vector<double, Bytes>;
    typename V::Type lanes[Columns][Columns] = {};
    Index r = 0;
    for (; r + V::size <= n; r += V::size) {
      typename V::Type x[Columns];
#pragma GCC unroll 4
      for (Index i = 0; i < Columns; ++i) {
        widen<V>(a[i] + r, x[i]);
        keep_in_register(x[i]);
      }
#pragma GCC unroll 4
      for (Index j = 0; j < Columns; ++j) {
#pragma GCC unroll 4
        for (Index i = j; i < Columns; ++i) lanes[j][i] += x[i] * x[j];
      }
    }
#pragma GCC unroll 4
    for (Index j = 0; j < Columns; ++j) {
#pragma GCC unroll 4
      for (Index i = j; i < Columns; ++i) {
        sums[i + kColumns * j] = add_rows(sum_of<Bytes>(lanes[j][i]), a[i], a[j], r, n);
      }
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
template <class T, class S>
struct CombineTask {
  const S* a;
  Index stride_a, count;
  const double* x;
  Index stride_x;
  const T* base;
  Index stride_base;
  T* to;
  Index stride_to, n;
};

template <class T, class S, int Columns>
struct CombineKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const CombineTask<T, S>* task) {
    using V = Vector<double, Bytes>;
    typedef T Narrow __attribute__((vector_size(V::size * sizeof(T)), aligned(alignof(T)), may_alias));
    const CombineTask<T, S> t = *task;
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
        const S* column = t.a + k * t.stride_a + r;
        typename V::Type top, bottom;
        widen<V>(column, top);
        widen<V>(column + V::size, bottom);
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
      double sums[Columns];  // of all columns before any is written: `to` may be a
      for (Index j = 0; j < Columns; ++j) {
        double& sum = sums[j];
        sum = t.base != nullptr ? static_cast<double>(t.base[j * t.stride_base + r]) : 0.0;
        for (Index k = 0; k < t.count; ++k)
          sum += static_cast<double>(t.a[k * t.stride_a + r]) * t.x[k + j * t.stride_x];
      }
      for (Index j = 0; j < Columns; ++j) t.to[j * t.stride_to + r] = static_cast<T>(sums[j]);
    }
  }
};

}  // namespace ogpsa::detail
