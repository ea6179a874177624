#pragma once

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "ogpsa/backend/gemm.hpp"
#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Householder's tridiagonal form of a symmetric matrix by panels of columns, so that half of the work is in matrix
/// products (Dongarra, Hammarling and Sorensen 1989), and the way back for eigenvectors.

namespace ogpsa::detail {

/// y <- A x for a symmetric matrix of which the lower triangle is given.
struct SymmetricProductKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* a, Index stride, Index n, const double* x, double* y) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    for (Index i = 0; i < n; ++i) y[i] = 0;
    for (Index j = 0; j < n; ++j) {
      const double* column = a + j * stride;
      typename V::Type lanes = {};
      Index i = j + 1;
      for (; i + V::size <= n; i += V::size) {
        const typename V::Type values = *reinterpret_cast<const Unaligned*>(column + i);
        lanes += values * *reinterpret_cast<const Unaligned*>(x + i);
        *reinterpret_cast<Unaligned*>(y + i) += values * x[j];
      }
      double sum = column[j] * x[j];
      for (Index l = 0; l < V::size; ++l) sum += lanes[l];
      for (; i < n; ++i) {
        sum += column[i] * x[i];
        y[i] += column[i] * x[j];
      }
      y[j] += sum;
    }
  }
};

/// y <- y - P Q^T x, for `count` columns of P and Q that lie `stride` apart.
struct LowRankProductKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* p, const double* q, Index stride, Index count, Index n,
                                      const double* x, double* y) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    for (Index j = 0; j < count; ++j, p += stride, q += stride) {
      typename V::Type lanes = {};
      Index i = 0;
      for (; i + V::size <= n; i += V::size) {
        lanes += *reinterpret_cast<const Unaligned*>(q + i) * *reinterpret_cast<const Unaligned*>(x + i);
      }
      double sum = 0;
      for (Index l = 0; l < V::size; ++l) sum += lanes[l];
      for (; i < n; ++i) sum += q[i] * x[i];
      for (i = 0; i + V::size <= n; i += V::size) {
        *reinterpret_cast<Unaligned*>(y + i) -= *reinterpret_cast<const Unaligned*>(p + i) * sum;
      }
      for (; i < n; ++i) y[i] -= p[i] * sum;
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
    for (Index l = 0; l < done; ++l) {  // column i, as it would be by now
      const double *v = panel_v + l * n, *u = w + l * n;
      for (Index r = i; r < n; ++r) a[r + i * n] -= v[r] * u[i] + u[r] * v[i];
    }
    t.diagonal[at] = a[i + i * n];
    if (m == 0) break;
    double* v = a + i + 1 + i * n;
    t.taus[at] = make_reflection(v, m, t.below[at]);
    double* const x = w + done * n + i + 1;
    std::fill(x - (i + 1), x + m, 0.0);
    if (t.taus[at] == 0) continue;
    run_best<SymmetricProductKernel>(static_cast<const double*>(a + (i + 1) * (n + 1)), n, m,
                                     static_cast<const double*>(v), x);
    const double *const left = panel_v + i + 1, *const right = w + i + 1;
    run_best<LowRankProductKernel>(left, right, n, done, m, static_cast<const double*>(v), x);
    run_best<LowRankProductKernel>(right, left, n, done, m, static_cast<const double*>(v), x);
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
