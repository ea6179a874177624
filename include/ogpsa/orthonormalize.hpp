#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/cholesky_qr.hpp"
#include "ogpsa/rank.hpp"

/// \file
/// Orthonormal columns of a tall matrix.

namespace ogpsa {

/// How the columns of a tall matrix are made orthonormal.
enum class Orthonormalization {
  /// CholeskyQR2 where the condition allows it, else CGS2.
  automatic,
  /// Classical Gram-Schmidt, re-orthogonalised; drops dependent columns. Any input, one column at a time.
  cgs2,
  /// Cholesky of the Gram matrix, twice (Fukaya et al. 2014). Condition up to about u^-1/2 of the arithmetic of the
  /// Gram matrix, which is double: 1/u for float input, 1e7 for double.
  cholesky_qr2,
  /// A shifted Cholesky first (Fukaya et al. 2020): full-rank input of condition up to about 1e12 in double.
  shifted_cholesky_qr3,
};

/// H = Q R. Q has `rank` orthonormal columns, R (`rank x m`) is on the host.
struct QrFactor {
  Index rank = 0;
  Eigen::MatrixXd r;
};

namespace detail {

template <class T, class B>
QrFactor cgs2(const B& backend, MatrixView<T> h, std::span<const double> reference_norms, double tolerance) {
  QrFactor result{0, zeros(0, h.cols)};
  Eigen::MatrixXd r = zeros(h.cols, h.cols);
  for (Index j = 0; j < h.cols; ++j) {
    const MatrixView<T> column = h.columns(j, 1);
    const MatrixView<const T> q = h.columns(0, result.rank);
    const auto norm = [&] {
      return std::sqrt(*backend.gram(MatrixView<const T>(column), MatrixView<const T>(column)).data());
    };
    const double original = norm();
    double before = original;
    double after = original;
    // "Twice is enough" for independent columns; a nearly dependent one is repeated until its norm settles.
    for (int pass = 0; pass < 5 && result.rank > 0 && after > 0; ++pass) {
      const Eigen::MatrixXd c = backend.gram(q, MatrixView<const T>(column));
      backend.subtract_product(column, q, c);
      add_scaled(detail::column(r, j), 1, values(c));
      after = norm();
      if (pass > 0 && after > 0.5 * before) break;
      before = after;
      if (after <= tolerance * original) break;
    }
    const double reference = reference_norms.empty() ? original : reference_norms[static_cast<std::size_t>(j)];
    if (!(after > tolerance * reference) || result.rank == h.rows) continue;
    const double inverse = 1 / after;
    backend.scale_columns(column, std::span<const double>(&inverse, 1));
    if (j != result.rank) backend.copy(MatrixView<const T>(column), h.columns(result.rank, 1));
    at(r, result.rank, j) = after;
    ++result.rank;
  }
  result.r = leading_rows(r, result.rank);
  return result;
}

/// True when a squared norm is not near an end of the range of double.
inline bool in_range(double square) { return is_finite(square) && square > 1e-24 && square < 1e24; }
/// The same for each column's, on the diagonal of the Gram matrix. False for zero columns, and where a column is not
/// finite.
inline bool in_range(const Eigen::MatrixXd& gram) {
  for (Index j = 0; j < gram.cols(); ++j) {
    if (!in_range(at(gram, j, j))) return false;
  }
  return true;
}

/// Powers of two bring extreme columns into range, so that squares neither overflow nor vanish; this is exact.
/// \param gram  of h; it is updated
/// \returns factors: a column as it was is its factor times the column as it is now
template <class T, class B>
Eigen::VectorXd bring_into_range(const B& backend, MatrixView<T> h, Eigen::MatrixXd& gram) {
  Eigen::VectorXd factors = zeros(h.cols);
  std::fill(values(factors).begin(), values(factors).end(), 1.0);
  if (in_range(gram)) return factors;
  std::vector<double> scale = backend.column_max_abs(MatrixView<const T>(h));
  for (double& s : scale) s = std::min(s, 0x1p1000);  // so that the sum is finite
  backend.all_reduce(std::span<double>(scale));       // every rank has to scale alike
  for (Index j = 0; j < h.cols; ++j) {
    double& s = scale[static_cast<std::size_t>(j)];
    const int exponent = s > 0 ? std::max(std::ilogb(s), -1022) : 0;  // 2^1022 is finite, 2^1074 is not
    if (!in_range(at(gram, j, j))) at(factors, j) = std::ldexp(1.0, exponent);
    s = 1 / at(factors, j);
  }
  backend.scale_columns(h, std::span<const double>(scale));
  gram = gram_of(backend, h);
  return factors;
}

/// The factorisation behind `orthonormalize`. Q = h * pending is orthonormal to about 1e-8 or better, and is to be
/// polished. \param gram  of h, as it is
template <class T, class B>
DeferredQr factorize(const B& backend, MatrixView<T> h, const Eigen::MatrixXd& gram, Orthonormalization method,
                     double tolerance, std::span<const double> reference_norms) {
  using Method = Orthonormalization;
  if (method == Method::cholesky_qr2) return cholesky_qr(backend, h, gram, 2, false);
  if (method == Method::shifted_cholesky_qr3) return cholesky_qr(backend, h, gram, 3, true);
  // A residual that is small against `reference_norms` needs the column-wise test of CGS2. sqrt(1e-13) = 3e-7 is far
  // above the rounding of a double Gram matrix; beyond it, and for dependent columns, CGS2 too. In double, products
  // with an inverse lose cond * u of a column, so that only little of it may be there.
  if (method == Method::automatic && reference_norms.empty()) {
    if (auto qr = factorize_at_once<T>(gram, tolerance)) return std::move(*qr);
    const double condition = reciprocal_condition_squared(gram);
    const double least = std::is_same_v<T, double> ? 1e-6 : 1e-13;
    if (condition > std::max(least, tolerance * tolerance)) {
      return cholesky_qr(backend, h, gram, one_pass_is_exact<T>(condition) ? 1 : 2, false);
    }
  }
  QrFactor qr = cgs2(backend, h, reference_norms, tolerance);
  return {qr.rank, std::move(qr.r), identity(qr.rank)};
}

/// `orthonormalize` for columns in range (see `bring_into_range`), or of a residual that may vanish.
template <class T, class B>
QrFactor orthonormalize_in_range(const B& backend, MatrixView<T> h, const Eigen::MatrixXd& gram,
                                 Orthonormalization method, double tolerance, std::span<const double> reference_norms) {
  DeferredQr qr = factorize(backend, h, gram, method, tolerance, reference_norms);
  const MatrixView<T> q = h.columns(0, qr.rank);
  const bool complete = distance_from_identity(qr.pending) == 0;
  polish(backend, q, complete ? gram_of(backend, q) : backend.multiply(MatrixView<const T>(q), qr.pending, q), qr.r);
  return {qr.rank, std::move(qr.r)};
}

}  // namespace detail

/// Makes the columns of `h` (n x m) orthonormal in place: its first `rank` columns become Q with h = Q R.
///
/// `automatic` and `cgs2` drop a column that depends on those before it: its residual is at most `tolerance` times its
/// norm (or `reference_norms`, where given). Zero columns are dropped. The others need full rank.
/// The input must be finite.
/// \throws NumericalError when the chosen CholeskyQR breaks down.
template <class T, class B>
requires Backend<B, T> QrFactor orthonormalize(const B& backend, MatrixView<T> h,
                                               Orthonormalization method = Orthonormalization::automatic,
                                               double tolerance = -1, std::span<const double> reference_norms = {}) {
  if (h.cols == 0) return {0, Eigen::MatrixXd(0, 0)};
  if (tolerance < 0) tolerance = default_relative_tolerance<T>(h.cols);
  Eigen::MatrixXd gram = detail::gram_of(backend, h);
  const Eigen::VectorXd factors = detail::bring_into_range(backend, h, gram);
  std::vector<double> references(reference_norms.begin(), reference_norms.end());
  for (std::size_t j = 0; j < references.size(); ++j) references[j] /= detail::values(factors)[j];
  QrFactor qr = detail::orthonormalize_in_range(backend, h, gram, method, tolerance, references);
  qr.r = detail::scaled_columns(std::move(qr.r), detail::values(factors));
  return qr;
}

}  // namespace ogpsa
