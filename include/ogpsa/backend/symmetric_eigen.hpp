#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/finite.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Eigenvalues and leading eigenvectors of a symmetric matrix, in double: Householder's tridiagonal form, then QR steps
/// with Wilkinson's shift (Golub and Van Loan, 8.3). Written out because Eigen's solver costs each file that
/// instantiates it a third of its compilation, and computes every eigenvector.

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

/// Lower triangle of A <- A - x y^T - y x^T.
struct SymmetricUpdateKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(double* a, Index stride, Index n, const double* x, const double* y) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    for (Index j = 0; j < n; ++j) {
      double* column = a + j * stride;
      Index i = j;
      for (; i + V::size <= n; i += V::size) {
        *reinterpret_cast<Unaligned*>(column + i) -=
            *reinterpret_cast<const Unaligned*>(x + i) * y[j] + *reinterpret_cast<const Unaligned*>(y + i) * x[j];
      }
      for (; i < n; ++i) column[i] -= x[i] * y[j] + y[i] * x[j];
    }
  }
};

/// X <- (I - tau v v^T) X for `count` columns.
struct ReflectKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* v, double tau, Index n, double* x, Index stride, Index count) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    for (Index j = 0; j < count; ++j, x += stride) {
      typename V::Type lanes = {};
      Index i = 0;
      for (; i + V::size <= n; i += V::size) {
        lanes += *reinterpret_cast<const Unaligned*>(v + i) * *reinterpret_cast<const Unaligned*>(x + i);
      }
      double sum = 0;
      for (Index l = 0; l < V::size; ++l) sum += lanes[l];
      for (; i < n; ++i) sum += v[i] * x[i];
      sum *= tau;
      for (i = 0; i + V::size <= n; i += V::size) {
        *reinterpret_cast<Unaligned*>(x + i) -= *reinterpret_cast<const Unaligned*>(v + i) * sum;
      }
      for (; i < n; ++i) x[i] -= v[i] * sum;
    }
  }
};

/// (x, y) <- (c x - s y, s x + c y) for the columns i and i + 1 of X, i = 0 .. count - 1 one after the other.
struct Rotation {
  double c, s;
};
struct RotateKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const Rotation* rotations, Index count, double* x, Index stride, Index rows) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    for (Index k = 0; k < count; ++k, x += stride) {
      const double c = rotations[k].c, s = rotations[k].s;
      double* y = x + stride;
      Index i = 0;
      for (; i + V::size <= rows; i += V::size) {
        const typename V::Type a = *reinterpret_cast<const Unaligned*>(x + i);
        const typename V::Type b = *reinterpret_cast<const Unaligned*>(y + i);
        *reinterpret_cast<Unaligned*>(x + i) = a * c - b * s;
        *reinterpret_cast<Unaligned*>(y + i) = a * s + b * c;
      }
      for (; i < rows; ++i) {
        const double a = x[i], b = y[i];
        x[i] = a * c - b * s;
        y[i] = a * s + b * c;
      }
    }
  }
};

/// A = H T H^T with T tridiagonal and H = H_0 H_1 ..., H_i = I - taus_i v_i v_i^T on the elements from i + 1 on.
struct Tridiagonal {
  std::vector<double> diagonal, below, taus;
};

/// Reduces the lower triangle of `a` (n x n, stride n, its elements at most 1), which becomes the vectors v_i: column i
/// below the diagonal.
inline Tridiagonal tridiagonalize(double* a, Index n) {
  const auto size = static_cast<std::size_t>(n);
  Tridiagonal t{std::vector<double>(size), std::vector<double>(size), std::vector<double>(size)};
  std::vector<double> w(size);
  for (Index i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    t.diagonal[at] = a[i + i * n];
    double* v = a + i + 1 + i * n;
    const Index m = n - 1 - i;
    if (m == 0) break;
    double squares = 0;
    for (Index r = 1; r < m; ++r) squares += v[r] * v[r];
    t.below[at] = v[0];
    if (squares > 1e-280) {  // less is nothing beside the largest element, which is 1, and has lost its digits
      const double norm = std::sqrt(v[0] * v[0] + squares);
      const double beta = v[0] > 0 ? -norm : norm;
      t.taus[at] = (beta - v[0]) / beta;
      t.below[at] = beta;
      const double first = v[0] - beta;
      for (Index r = 1; r < m; ++r) v[r] /= first;
    }
    v[0] = 1;
    if (t.taus[at] == 0) continue;
    double* rest = a + (i + 1) * (n + 1);
    run_best<SymmetricProductKernel>(static_cast<const double*>(rest), n, m, static_cast<const double*>(v), w.data());
    double inner = 0;
    for (Index r = 0; r < m; ++r) inner += (w[static_cast<std::size_t>(r)] *= t.taus[at]) * v[r];
    for (Index r = 0; r < m; ++r) w[static_cast<std::size_t>(r)] -= 0.5 * t.taus[at] * inner * v[r];
    run_best<SymmetricUpdateKernel>(rest, n, m, static_cast<const double*>(v), static_cast<const double*>(w.data()));
  }
  return t;
}

/// One implicit QR step on the rows and columns [start, end] of T.
inline void qr_step(Tridiagonal& t, std::size_t start, std::size_t end, std::vector<Rotation>& rotations) {
  auto& d = t.diagonal;
  auto& e = t.below;
  const double half = (d[end - 1] - d[end]) / 2, last = e[end - 1];
  const double root = std::hypot(half, last);
  const double shift = d[end] - last * (last / (half + (half < 0 ? -root : root)));
  double x = d[start] - shift, z = e[start];
  rotations.clear();
  for (std::size_t k = start; k < end; ++k) {
    const double r = std::hypot(x, z);
    const double c = r > 0 ? x / r : 1.0, s = r > 0 ? -z / r : 0.0;
    rotations.push_back({c, s});
    if (k > start) e[k - 1] = r;
    const double upper = d[k], lower = d[k + 1], between = e[k];
    d[k] = c * c * upper - 2 * c * s * between + s * s * lower;
    d[k + 1] = s * s * upper + 2 * c * s * between + c * c * lower;
    e[k] = c * s * (upper - lower) + (c * c - s * s) * between;
    x = e[k];
    if (k + 1 == end) break;
    z = -s * e[k + 1];
    e[k + 1] *= c;
  }
}

/// Makes T diagonal and turns the columns of `q` (n x n) with it. False where that does not converge.
inline bool diagonalize(Tridiagonal& t, double* q, Index n) {
  const auto& d = t.diagonal;
  auto& e = t.below;
  std::vector<Rotation> rotations;
  std::size_t end = d.size() - 1;
  for (Index steps = 0; steps <= 30 * n; ++steps) {
    for (std::size_t i = 0; i < end; ++i) {
      const double near = std::numeric_limits<double>::epsilon() * (std::abs(d[i]) + std::abs(d[i + 1]));
      if (std::abs(e[i]) <= near || std::abs(e[i]) < std::numeric_limits<double>::min()) e[i] = 0;
    }
    while (end > 0 && e[end - 1] == 0) --end;
    if (end == 0) return true;
    std::size_t start = end - 1;
    while (start > 0 && e[start - 1] != 0) --start;
    qr_step(t, start, end, rotations);
    const auto count = static_cast<Index>(rotations.size());
    const Segments rows(n, 64, 256, 64);  // of q: what two columns of it need stays in the first-level cache
    parallel_for(rows.count, count * n >= kWorthThreads, [&](Index s) {
      run_best<RotateKernel>(static_cast<const Rotation*>(rotations.data()), count,
                             q + static_cast<Index>(start) * n + rows.begin(s), n, rows.end(s) - rows.begin(s));
    });
  }
  return false;
}

/// Eigenvalues, descending, of a symmetric matrix (n x n, its lower triangle; destroyed), and as many leading
/// eigenvectors as `vectors` has columns. Nothing where a value is not finite, or the iteration does not
/// converge.
inline std::optional<std::vector<double>> symmetric_eigen(MatrixView<double> a, MatrixView<double> vectors) {
  const Index n = a.rows;
  if (n == 0) return std::vector<double>();
  double scale = 0;
  for (Index j = 0; j < n; ++j) {
    for (Index i = j; i < n; ++i) {
      if (!is_finite(a.data[i + j * n])) return std::nullopt;
      scale = std::max(scale, std::abs(a.data[i + j * n]));
    }
  }
  if (!(scale > 0)) scale = 1;
  for (Index i = 0; i < n * n; ++i) a.data[i] /= scale;
  Tridiagonal t = tridiagonalize(a.data, n);
  std::vector<double> q(static_cast<std::size_t>(n * n));
  for (Index i = 0; i < n; ++i) q[static_cast<std::size_t>(i * (n + 1))] = 1;
  if (!diagonalize(t, q.data(), n)) return std::nullopt;
  std::vector<Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Index{0});
  const auto value = [&](Index i) { return t.diagonal[static_cast<std::size_t>(i)]; };
  std::sort(order.begin(), order.end(),
            [&](Index i, Index j) { return value(i) > value(j) || (value(i) == value(j) && i < j); });
  std::vector<double> values;
  for (const Index i : order) values.push_back(value(i) * scale);
  for (Index j = 0; j < vectors.cols; ++j) {
    const double* from = q.data() + order[static_cast<std::size_t>(j)] * n;
    std::copy(from, from + n, vectors.data + j * vectors.stride);
  }
  constexpr Index group = 8;  // vectors to which each reflection is applied while it is in the cache
  parallel_for((vectors.cols + group - 1) / group, vectors.cols * n >= kWorthThreads, [&](Index g) {
    for (Index i = n - 2; i >= 0; --i) {
      run_best<ReflectKernel>(static_cast<const double*>(a.data + i + 1 + i * n), t.taus[static_cast<std::size_t>(i)],
                              n - 1 - i, vectors.data + g * group * vectors.stride + i + 1, vectors.stride,
                              std::min(group, vectors.cols - g * group));
    }
  });
  return values;
}

}  // namespace ogpsa::detail
