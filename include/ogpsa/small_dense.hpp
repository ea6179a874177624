#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "ogpsa/small_matrix.hpp"

/// \file
/// The small (k x k) problems, in double. They are written out because Eigen's own decompositions cost each file that
/// includes them 4 to 6 seconds of compilation apiece (see also small_matrix.hpp); and one-sided Jacobi finds even tiny
/// singular values to high relative accuracy and does not fail on repeated or zero ones.

namespace ogpsa::detail {

/// A = U diag(s) V^T with r = min(rows, cols); s descending, U and V with orthonormal columns also where s is zero.
struct SmallSvd {
  Eigen::MatrixXd u;
  Eigen::VectorXd s;
  Eigen::MatrixXd v;
};

/// (x, y) <- (c x - s y, s x + c y)
inline void rotate(Column x, Column y, double c, double s) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = x[i], b = y[i];
    x[i] = c * a - s * b;
    y[i] = s * a + c * b;
  }
}

inline void swap_columns(Eigen::MatrixXd& a, Eigen::Index i, Eigen::Index j) {
  std::swap_ranges(column(a, i).begin(), column(a, i).end(), column(a, j).begin());
}

/// The longest of the columns from `first` on.
inline Eigen::Index longest_column(const Eigen::MatrixXd& a, Eigen::Index first) {
  Eigen::Index longest = first;
  double largest = -1;
  for (Eigen::Index j = first; j < a.cols(); ++j) {
    const double square = squared_norm(column(a, j));
    if (!(square > largest)) continue;
    largest = square;
    longest = j;
  }
  return longest;
}

/// Makes the columns of `a` orthogonal by rotations, which it applies to `v` too (Hestenes 1958; de Rijk 1989).
inline void orthogonalize_by_jacobi(Eigen::MatrixXd& a, Eigen::MatrixXd& v) {
  const Eigen::Index n = a.cols();
  const double tolerance = std::numeric_limits<double>::epsilon() * std::sqrt(static_cast<double>(a.rows()));
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (Eigen::Index p = 0; p + 1 < n; ++p) {
      const Eigen::Index longest = longest_column(a, p);  // pivoting: the longest remaining column first
      if (longest != p) {
        swap_columns(a, p, longest);
        swap_columns(v, p, longest);
      }
      for (Eigen::Index q = p + 1; q < n; ++q) {
        const Column x = column(a, p), y = column(a, q);
        const double alpha = squared_norm(x), beta = squared_norm(y), gamma = dot(x, y);
        if (!(std::abs(gamma) > tolerance * std::sqrt(alpha * beta))) continue;
        rotated = true;
        const double zeta = (beta - alpha) / (2 * gamma);
        const double t = (zeta >= 0 ? 1.0 : -1.0) / (std::abs(zeta) + std::hypot(1.0, zeta));
        const double c = 1 / std::hypot(1.0, t);
        rotate(x, y, c, c * t);
        rotate(column(v, p), column(v, q), c, c * t);
      }
    }
    if (!rotated) return;
  }
}

/// Fills column j with a unit vector orthogonal to the columns before it.
inline void complete_column(Eigen::MatrixXd& u, Eigen::Index j) {
  const Column candidate = column(u, j);
  for (std::size_t axis = 0; axis < candidate.size(); ++axis) {
    std::fill(candidate.begin(), candidate.end(), 0.0);
    candidate[axis] = 1;
    for (int pass = 0; pass < 2; ++pass) {
      for (Eigen::Index i = 0; i < j; ++i) add_scaled(candidate, -dot(column(u, i), candidate), column(u, i));
    }
    const double length = norm(candidate);
    if (length < 0.5 / std::sqrt(static_cast<double>(u.rows()))) continue;
    scale(candidate, 1 / length);
    return;
  }
}

/// SVD of a small matrix of any shape and rank; its entries must be finite.
inline SmallSvd small_svd(const Eigen::MatrixXd& matrix) {
  if (matrix.rows() < matrix.cols()) {
    SmallSvd of_transposed = small_svd(transposed(matrix));
    return {std::move(of_transposed.v), std::move(of_transposed.s), std::move(of_transposed.u)};
  }
  const Eigen::Index n = matrix.cols();
  SmallSvd svd{matrix, zeros(n), identity(n)};
  const double largest = max_abs(values(matrix));
  if (largest > 0) {
    for (double& value : values(svd.u)) value /= largest;
  }
  orthogonalize_by_jacobi(svd.u, svd.v);
  for (Eigen::Index j = 0; j < n; ++j) {
    const Eigen::Index longest = longest_column(svd.u, j);
    if (longest != j) {
      swap_columns(svd.u, j, longest);
      swap_columns(svd.v, j, longest);
    }
    const double length = norm(column(svd.u, j));
    at(svd.s, j) = length * largest;
    if (length > 0) {
      for (double& value : column(svd.u, j)) value /= length;
    } else {
      complete_column(svd.u, j);
    }
  }
  return svd;
}

/// The least-squares solution of least norm of A x = b; directions below about u times the largest are dropped.
inline Eigen::VectorXd least_squares(const Eigen::MatrixXd& a, const Eigen::VectorXd& b) {
  const SmallSvd svd = small_svd(a);
  Eigen::VectorXd x = zeros(a.cols());
  const double threshold = 8 * std::numeric_limits<double>::epsilon() * max_abs(values(svd.s));
  for (Eigen::Index j = 0; j < svd.s.size(); ++j) {
    const double value = at(svd.s, j);
    if (value > threshold) add_scaled(values(x), dot(column(svd.u, j), values(b)) / value, column(svd.v, j));
  }
  return x;
}

/// R with R^T R = A, upper triangular; nothing where A is not numerically positive definite.
inline std::optional<Eigen::MatrixXd> upper_cholesky(const Eigen::MatrixXd& a) {
  Eigen::MatrixXd r = zeros(a.rows(), a.rows());
  const auto above = [&](Eigen::Index j, Eigen::Index rows) {
    return column(r, j).first(static_cast<std::size_t>(rows));
  };
  for (Eigen::Index j = 0; j < a.rows(); ++j) {
    for (Eigen::Index i = 0; i < j; ++i) at(r, i, j) = (at(a, i, j) - dot(above(i, i), above(j, i))) / at(r, i, i);
    const double pivot = at(a, j, j) - squared_norm(above(j, j));
    if (!(pivot > 0)) return std::nullopt;
    at(r, j, j) = std::sqrt(pivot);
  }
  return r;
}

/// The inverse of an upper triangular matrix, row by row: then X R - I is small, which is what H = (H X) R needs.
inline Eigen::MatrixXd inverse_upper(const Eigen::MatrixXd& r) {
  Eigen::MatrixXd rows = zeros(r.rows(), r.rows());  // the transposed inverse, so that its rows are contiguous
  for (Eigen::Index i = 0; i < r.rows(); ++i) {
    for (Eigen::Index j = i; j < r.rows(); ++j) {
      const auto first = static_cast<std::size_t>(i), count = static_cast<std::size_t>(j - i);
      const double sum = dot(column(rows, i).subspan(first, count), column(r, j).subspan(first, count));
      at(rows, j, i) = ((i == j ? 1.0 : 0.0) - sum) / at(r, j, j);
    }
  }
  return transposed(rows);
}

}  // namespace ogpsa::detail
