#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "ogpsa/backend/column_kernels.hpp"
#include "ogpsa/backend/gemm.hpp"
#include "ogpsa/backend/host_memory.hpp"
#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Householder's tridiagonal form of a symmetric matrix by panels of columns, so that half of the work is in matrix
/// products (Dongarra, Hammarling and Sorensen 1989), and the way back for eigenvectors.

namespace ogpsa::detail {

/// y <- y + A x for a symmetric matrix of which the lower triangle is given and all but the first `columns` columns of
/// that are zero.
struct SymmetricProductKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* a, Index stride, Index n, Index columns, const double* x,
                                      double* y) {
    Index j = 0;
    for (; j + kColumns <= columns; j += kColumns) {
      add_columns<Bytes, kColumns>(a + j * (stride + 1), stride, n - j, x + j, y + j);
    }
    for (; j < columns; ++j) add_columns<Bytes, 1>(a + j * (stride + 1), stride, n - j, x + j, y + j);
  }

 private:
  /// What the first `Count` columns of n rows, and the rows that mirror them, add.
  template <int Bytes, Index Count>
  OGPSA_ALWAYS_INLINE static void add_columns(const double* a, Index stride, Index n, const double* x, double* y) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    typename V::Type lanes[Count] = {};
    Index i = Count;
    for (; i + V::size <= n; i += V::size) {
      const typename V::Type here = *reinterpret_cast<const Unaligned*>(x + i);
      typename V::Type sum = *reinterpret_cast<const Unaligned*>(y + i);
#pragma GCC unroll 4
      for (Index c = 0; c < Count; ++c) {
        const typename V::Type values = *reinterpret_cast<const Unaligned*>(a + i + c * stride);
        lanes[c] += values * here;
        sum += values * x[c];
      }
      *reinterpret_cast<Unaligned*>(y + i) = sum;
    }
#pragma GCC unroll 4
    for (Index c = 0; c < Count; ++c) {
      const double* column = a + c * stride;
      double sum = sum_of<Bytes>(lanes[c]) + column[c] * x[c];
      const auto add_row = [&](Index r) {
        sum += column[r] * x[r];
        y[r] += column[r] * x[c];
      };
      for (Index r = c + 1; r < Count; ++r) add_row(r);
      for (Index r = i; r < n; ++r) add_row(r);
      y[c] += sum;
    }
  }
};

/// y <- A x for a symmetric matrix (n x n, its lower triangle), in parts of about equal size; y is zero before.
inline void symmetric_product(const double* a, Index stride, Index n, const double* x, double* y) {
  const bool worth_threads = n * n >= 2 * kWorthThreads;
  const Index parts = worth_threads ? 4 : 1;
  const auto first_column = [&](Index part) {
    const double left = 1 - static_cast<double>(part) / static_cast<double>(parts);  // of the triangle
    return n - static_cast<Index>(std::sqrt(left) * static_cast<double>(n));
  };
  const HostBuffer<double> sums((parts - 1) * n);  // of all parts but the first
  std::fill(sums.data(), sums.data() + (parts - 1) * n, 0.0);
  parallel_for(parts, worth_threads, [&](Index part) {
    const Index first = first_column(part), columns = first_column(part + 1) - first;
    double* const sum = part == 0 ? y : sums.data() + (part - 1) * n;
    run_best<SymmetricProductKernel>(a + first * (stride + 1), stride, n - first, columns, x + first, sum + first);
  });
  for (Index part = 1; part < parts; ++part) {
    const double* const sum = sums.data() + (part - 1) * n;
    for (Index i = first_column(part); i < n; ++i) y[i] += sum[i];
  }
}

/// products_j <- q_j^T x for `count` columns of n rows.
struct ColumnDotsKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* q, Index stride, Index count, Index n, const double* x,
                                      double* products) {
    Index j = 0;
    for (; j + kColumns <= count; j += kColumns) dots<Bytes, kColumns>(q + j * stride, stride, n, x, products + j);
    for (; j < count; ++j) dots<Bytes, 1>(q + j * stride, stride, n, x, products + j);
  }

 private:
  template <int Bytes, Index Count>
  OGPSA_ALWAYS_INLINE static void dots(const double* q, Index stride, Index n, const double* x, double* products) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    typename V::Type lanes[Count] = {};
    Index i = 0;
    for (; i + V::size <= n; i += V::size) {
      const typename V::Type here = *reinterpret_cast<const Unaligned*>(x + i);
#pragma GCC unroll 4
      for (Index c = 0; c < Count; ++c) lanes[c] += *reinterpret_cast<const Unaligned*>(q + i + c * stride) * here;
    }
#pragma GCC unroll 4
    for (Index c = 0; c < Count; ++c) products[c] = add_rows(sum_of<Bytes>(lanes[c]), q + c * stride, x, i, n);
  }
};

/// y <- y - sum_j c_j p_j for `count` columns of n rows; c_j lie `between` apart.
struct SubtractColumnsKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* p, Index stride, Index count, Index n, const double* c,
                                      Index between, double* y) {
    Index j = 0;
    for (; j + kColumns <= count; j += kColumns) {
      subtract<Bytes, kColumns>(p + j * stride, stride, n, c + j * between, between, y);
    }
    for (; j < count; ++j) subtract<Bytes, 1>(p + j * stride, stride, n, c + j * between, between, y);
  }

 private:
  template <int Bytes, Index Count>
  OGPSA_ALWAYS_INLINE static void subtract(const double* p, Index stride, Index n, const double* c, Index between,
                                           double* y) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    Index i = 0;
    for (; i + V::size <= n; i += V::size) {
      typename V::Type value = *reinterpret_cast<const Unaligned*>(y + i);
#pragma GCC unroll 4
      for (Index l = 0; l < Count; ++l) {
        value -= *reinterpret_cast<const Unaligned*>(p + i + l * stride) * c[l * between];
      }
      *reinterpret_cast<Unaligned*>(y + i) = value;
    }
    for (; i < n; ++i) {
      for (Index l = 0; l < Count; ++l) y[i] -= p[i + l * stride] * c[l * between];
    }
  }
};

/// A = H T H^T with T tridiagonal and H = H_0 H_1 ..., H_i = I - taus_i v_i v_i^T on the elements from i + 1 on.
struct Tridiagonal {
  std::vector<double> diagonal, below, taus;
};

/// Columns that are reduced before the rest of the matrix is updated, and reflections that are applied together.
inline constexpr Index kReflections = 32;

/// Makes v (m elements) the vector of a reflection that leaves of it its first element alone, `below`. \returns tau
inline double make_reflection(double* v, Index m, double& below) {
  double squares = 0, tau = 0;
  for (Index r = 1; r < m; ++r) squares += v[r] * v[r];
  below = v[0];
  if (squares > 1e-280) {  // less is nothing beside the largest element, which is 1, and has lost its digits
    const double norm = std::sqrt(v[0] * v[0] + squares);
    const double beta = v[0] > 0 ? -norm : norm;
    tau = (beta - v[0]) / beta;
    below = beta;
    const double first = v[0] - beta;
    for (Index r = 1; r < m; ++r) v[r] /= first;
  }
  v[0] = 1;
  return tau;
}

/// Reduces columns [begin, end) of `a`; w (n x kReflections) receives W, by which the rest of A is A - V W^T - W V^T.
inline void reduce_panel(double* a, Index n, Index begin, Index end, double* w, Tridiagonal& t) {
  for (Index i = begin; i < end; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const Index done = i - begin, m = n - 1 - i;
    const double* const panel_v = a + begin * n;
    const auto subtract = [&](const double* p, const double* c, Index between, double* y, Index rows) {
      run_best<SubtractColumnsKernel>(p, n, done, rows, c, between, y);
    };
    // Column i, as it would be by now.
    subtract(panel_v + i, w + i, n, a + i * (n + 1), n - i);
    subtract(w + i, panel_v + i, n, a + i * (n + 1), n - i);
    t.diagonal[at] = a[i + i * n];
    if (m == 0) break;
    double* v = a + i + 1 + i * n;
    t.taus[at] = make_reflection(v, m, t.below[at]);
    double* const x = w + done * n + i + 1;
    std::fill(x - (i + 1), x + m, 0.0);
    if (t.taus[at] == 0) continue;
    symmetric_product(a + (i + 1) * (n + 1), n, m, v, x);
    const double *const left = panel_v + i + 1, *const right = w + i + 1;
    double products[2][kReflections];
    run_best<ColumnDotsKernel>(right, n, done, m, static_cast<const double*>(v), static_cast<double*>(products[0]));
    run_best<ColumnDotsKernel>(left, n, done, m, static_cast<const double*>(v), static_cast<double*>(products[1]));
    subtract(left, products[0], 1, x, m);
    subtract(right, products[1], 1, x, m);
    double inner = 0;
    for (Index r = 0; r < m; ++r) inner += (x[r] *= t.taus[at]) * v[r];
    for (Index r = 0; r < m; ++r) x[r] -= 0.5 * t.taus[at] * inner * v[r];
  }
}

/// Reduces the lower triangle of `a` (n x n, stride n, its elements at most 1), which becomes the vectors v_i: column i
/// below the diagonal.
inline Tridiagonal tridiagonalize(double* a, Index n) {
  const auto size = static_cast<std::size_t>(n);
  Tridiagonal t{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  std::vector<double> w(static_cast<std::size_t>(n * kReflections));
  for (Index begin = 0; begin < n; begin += kReflections) {
    const Index end = std::min(begin + kReflections, n), m = n - end;
    reduce_panel(a, n, begin, end, w.data(), t);
    if (m == 0) break;
    const MatrixView<const double> v(a + end + begin * n, m, end - begin, n), u(w.data() + end, m, end - begin, n);
    const Segments blocks(m, 96, 96, m);
    parallel_for(blocks.count, m * m >= kWorthThreads, [&](Index b) {
      const Index first = blocks.begin(b), count = blocks.end(b) - first;
      const MatrixView<double> rest(a + (end + first) * (n + 1), m - first, count, n);
      gemm<double>(-1, v.row_range(first, m - first), Transpose::no, u.row_range(first, count), Transpose::yes, rest);
      gemm<double>(-1, u.row_range(first, m - first), Transpose::no, v.row_range(first, count), Transpose::yes, rest);
    });
  }
  return t;
}

/// X <- H X, from the last reflections to the first, kReflections of them at a time as I - V S V^T (Schreiber and Van
/// Loan 1989).
inline void apply_reflections(const double* a, const Tridiagonal& t, MatrixView<double> x) {
  const Index n = x.rows;
  for (Index begin = (n - 1) / kReflections * kReflections; begin >= 0; begin -= kReflections) {
    const Index count = std::min(kReflections, n - 1 - begin), m = n - 1 - begin;
    if (count <= 0) continue;
    Eigen::MatrixXd v = Eigen::MatrixXd::Zero(m, count), s = Eigen::MatrixXd::Zero(count, count);
    for (Index l = 0; l < count; ++l) {
      const double* column = a + (begin + l) * n;
      std::copy(column + begin + l + 1, column + n, v.data() + l * m + l);
    }
    Eigen::MatrixXd products = s;
    const auto all = view_of(std::as_const(v));
    gemm<double>(1, all, Transpose::yes, all, Transpose::no, view_of(products));
    for (Index j = 0; j < count; ++j) {
      const double tau = t.taus[static_cast<std::size_t>(begin + j)];
      s.data()[j + j * count] = tau;
      for (Index i = 0; i < j; ++i) {
        double sum = 0;
        for (Index l = i; l < j; ++l) sum += s.data()[i + l * count] * products.data()[l + j * count];
        s.data()[i + j * count] = -tau * sum;
      }
    }
    const Segments panels(x.cols, 48, 96, 64);
    parallel_for(panels.count, m * x.cols >= kWorthThreads, [&](Index p) {
      const auto part = x.columns(panels.begin(p), panels.end(p) - panels.begin(p)).row_range(begin + 1, m);
      Eigen::MatrixXd inner = Eigen::MatrixXd::Zero(count, part.cols), turned = inner;
      gemm<double>(1, all, Transpose::yes, MatrixView<const double>(part), Transpose::no, view_of(inner));
      gemm<double>(1, view_of(std::as_const(s)), Transpose::no, view_of(std::as_const(inner)), Transpose::no,
                   view_of(turned));
      gemm<double>(-1, all, Transpose::no, view_of(std::as_const(turned)), Transpose::no, part);
    });
  }
}

}  // namespace ogpsa::detail
