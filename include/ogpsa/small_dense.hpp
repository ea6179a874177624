#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

/// \file
/// The small (k x k) problems, in double. They are written out because Eigen's own decompositions cost each file that
/// includes them 4 to 6 seconds of compilation apiece; and one-sided Jacobi finds even tiny singular values to high
/// relative accuracy and does not fail on repeated or zero ones.

namespace ogpsa::detail {

// Eigen's own product would be compiled anew, with all its blocking, for each kind of operand.

/// a b
inline Eigen::MatrixXd small_product(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  Eigen::MatrixXd c = Eigen::MatrixXd::Zero(a.rows(), b.cols());
  for (Eigen::Index j = 0; j < b.cols(); ++j) {
    for (Eigen::Index p = 0; p < b.rows(); ++p) {
      for (Eigen::Index i = 0; i < a.rows(); ++i) c(i, j) += a(i, p) * b(p, j);
    }
  }
  return c;
}

/// a^T b
inline Eigen::MatrixXd small_transposed_product(const Eigen::MatrixXd& a, const Eigen::MatrixXd& b) {
  Eigen::MatrixXd c(a.cols(), b.cols());
  for (Eigen::Index j = 0; j < b.cols(); ++j) {
    for (Eigen::Index i = 0; i < a.cols(); ++i) c(i, j) = a.col(i).dot(b.col(j));
  }
  return c;
}

/// diag(rows) a diag(cols)
inline Eigen::MatrixXd scaled(const Eigen::VectorXd& rows, Eigen::MatrixXd a, const Eigen::VectorXd& cols) {
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    for (Eigen::Index i = 0; i < a.rows(); ++i) a(i, j) = rows(i) * a(i, j) * cols(j);
  }
  return a;
}

/// A = U diag(s) V^T with r = min(rows, cols); s descending, U and V with orthonormal columns also where s is zero.
struct SmallSvd {
  Eigen::MatrixXd u;
  Eigen::VectorXd s;
  Eigen::MatrixXd v;
};

/// Rotates columns p and q of `m` by (c, s).
inline void rotate_columns(Eigen::MatrixXd& m, Eigen::Index p, Eigen::Index q, double c, double s) {
  double* a = m.col(p).data();
  double* b = m.col(q).data();
  for (Eigen::Index i = 0; i < m.rows(); ++i) {
    const double x = a[i];
    a[i] = c * x - s * b[i];
    b[i] = s * x + c * b[i];
  }
}

/// Makes the columns of `a` orthogonal by rotations, which it applies to `v` too (Hestenes 1958; de Rijk 1989).
inline void orthogonalize_by_jacobi(Eigen::MatrixXd& a, Eigen::MatrixXd& v) {
  const Eigen::Index n = a.cols();
  const double tolerance = std::numeric_limits<double>::epsilon() * std::sqrt(static_cast<double>(a.rows()));
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (Eigen::Index p = 0; p + 1 < n; ++p) {
      Eigen::Index largest = p;  // pivoting: the longest remaining column first
      a.rightCols(n - p).colwise().squaredNorm().maxCoeff(&largest);
      if (largest > 0) {
        a.col(p).swap(a.col(p + largest));
        v.col(p).swap(v.col(p + largest));
      }
      for (Eigen::Index q = p + 1; q < n; ++q) {
        const double alpha = a.col(p).squaredNorm(), beta = a.col(q).squaredNorm(), gamma = a.col(p).dot(a.col(q));
        if (!(std::abs(gamma) > tolerance * std::sqrt(alpha * beta))) continue;
        rotated = true;
        const double zeta = (beta - alpha) / (2 * gamma);
        const double t = (zeta >= 0 ? 1.0 : -1.0) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double c = 1 / std::hypot(1.0, t);
        rotate_columns(a, p, q, c, c * t);
        rotate_columns(v, p, q, c, c * t);
      }
    }
    if (!rotated) return;
  }
}

/// Fills column j with a unit vector orthogonal to the columns before it.
inline void complete_column(Eigen::MatrixXd& u, Eigen::Index j) {
  for (Eigen::Index axis = 0; axis < u.rows(); ++axis) {
    Eigen::VectorXd candidate = Eigen::VectorXd::Unit(u.rows(), axis);
    for (int pass = 0; pass < 2; ++pass) {
      for (Eigen::Index i = 0; i < j; ++i) candidate -= u.col(i).dot(candidate) * u.col(i);
    }
    if (candidate.norm() < 0.5 / std::sqrt(static_cast<double>(u.rows()))) continue;
    u.col(j) = candidate.normalized();
    return;
  }
}

/// SVD of a small matrix of any shape and rank; its entries must be finite.
inline SmallSvd small_svd(const Eigen::MatrixXd& matrix) {
  if (matrix.rows() < matrix.cols()) {
    SmallSvd transposed = small_svd(matrix.transpose());
    return {std::move(transposed.v), std::move(transposed.s), std::move(transposed.u)};
  }
  const Eigen::Index n = matrix.cols();
  const double scale = matrix.size() > 0 ? matrix.cwiseAbs().maxCoeff() : 0.0;
  Eigen::MatrixXd a = scale > 0 ? Eigen::MatrixXd(matrix / scale) : Eigen::MatrixXd(matrix);
  Eigen::MatrixXd v = Eigen::MatrixXd::Identity(n, n);
  orthogonalize_by_jacobi(a, v);
  std::vector<Eigen::Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Eigen::Index{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](Eigen::Index i, Eigen::Index j) { return a.col(i).norm() > a.col(j).norm(); });
  SmallSvd svd{Eigen::MatrixXd(matrix.rows(), n), Eigen::VectorXd(n), Eigen::MatrixXd(n, n)};
  for (Eigen::Index j = 0; j < n; ++j) {
    const Eigen::Index from = order[static_cast<std::size_t>(j)];
    const double norm = a.col(from).norm();
    svd.s(j) = norm * scale;
    svd.v.col(j) = v.col(from);
    if (norm > 0) {
      svd.u.col(j) = a.col(from) / norm;
    } else {
      complete_column(svd.u, j);
    }
  }
  return svd;
}

/// The least-squares solution of least norm of A x = b; directions below about u times the largest are dropped.
inline Eigen::VectorXd least_squares(const Eigen::MatrixXd& a, const Eigen::VectorXd& b) {
  const SmallSvd svd = small_svd(a);
  Eigen::VectorXd x = Eigen::VectorXd::Zero(a.cols());
  const double threshold = 8 * std::numeric_limits<double>::epsilon() * (svd.s.size() > 0 ? svd.s(0) : 0.0);
  for (Eigen::Index j = 0; j < svd.s.size(); ++j) {
    if (svd.s(j) > threshold) x += svd.u.col(j).dot(b) / svd.s(j) * svd.v.col(j);
  }
  return x;
}

/// R with R^T R = A, upper triangular; nothing where A is not numerically positive definite.
inline std::optional<Eigen::MatrixXd> upper_cholesky(const Eigen::MatrixXd& a) {
  const Eigen::Index n = a.rows();
  Eigen::MatrixXd r = Eigen::MatrixXd::Zero(n, n);
  for (Eigen::Index j = 0; j < n; ++j) {
    for (Eigen::Index i = 0; i < j; ++i) {
      r(i, j) = (a(i, j) - r.col(i).head(i).dot(r.col(j).head(i))) / r(i, i);
    }
    const double pivot = a(j, j) - r.col(j).head(j).squaredNorm();
    if (!(pivot > 0)) return std::nullopt;
    r(j, j) = std::sqrt(pivot);
  }
  return r;
}

/// The inverse of an upper triangular matrix, row by row: then X R - I is small, which is what H = (H X) R needs.
inline Eigen::MatrixXd inverse_upper(const Eigen::MatrixXd& r) {
  const Eigen::Index n = r.rows();
  Eigen::MatrixXd transposed = Eigen::MatrixXd::Zero(n, n);  // of the inverse, so that its rows are contiguous
  for (Eigen::Index i = 0; i < n; ++i) {
    for (Eigen::Index j = i; j < n; ++j) {
      const double rest = (i == j ? 1.0 : 0.0) - transposed.col(i).segment(i, j - i).dot(r.col(j).segment(i, j - i));
      transposed(j, i) = rest / r(j, j);
    }
  }
  return transposed.transpose();
}

}  // namespace ogpsa::detail
