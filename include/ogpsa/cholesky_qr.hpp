#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "ogpsa/backend.hpp"
#include "ogpsa/finite.hpp"
#include "ogpsa/small_dense.hpp"

/// \file
/// Cholesky factors of Gram matrices: passes of CholeskyQR, and what they say about the condition of the columns.

namespace ogpsa::detail {

template <class T>
constexpr double unit_roundoff() {
  return static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
}

/// max |G - I|; the largest number where G is not finite.
inline double distance_from_identity(const Eigen::MatrixXd& gram) {
  if (!all_finite(values(gram))) return std::numeric_limits<double>::max();
  double largest = 0;
  for (Eigen::Index j = 0; j < gram.cols(); ++j) {
    for (Eigen::Index i = 0; i < gram.rows(); ++i) {
      largest = std::max(largest, std::abs(at(gram, i, j) - (i == j ? 1.0 : 0.0)));
    }
  }
  return largest;
}

/// Square roots of the diagonal of a Gram matrix.
inline Eigen::VectorXd column_norms(const Eigen::MatrixXd& gram) {
  Eigen::VectorXd norms = zeros(gram.rows());
  for (Index j = 0; j < norms.size(); ++j) at(norms, j) = std::sqrt(at(gram, j, j));
  return norms;
}

/// A Gram matrix with its columns' norms, scaled to ones on the diagonal; nothing where a column is zero (or NaN).
struct Equilibrated {
  Eigen::VectorXd norms;
  Eigen::MatrixXd gram;
};
inline std::optional<Equilibrated> equilibrate(const Eigen::MatrixXd& gram) {
  Equilibrated result{column_norms(gram), gram};
  Eigen::VectorXd inverse = result.norms;
  for (double& value : values(inverse)) {
    if (!(value > 0)) return std::nullopt;
    value = 1 / value;
  }
  result.gram = scaled_rows(values(inverse), scaled_columns(std::move(result.gram), values(inverse)));
  return result;
}

/// Upper Cholesky factor of a Gram matrix with `shift` (relative to its columns' squared norms) on the diagonal, or
/// nothing where it is not numerically positive definite. Columns are equilibrated first, so their scale is free.
inline std::optional<Eigen::MatrixXd> cholesky_factor(const Eigen::MatrixXd& gram, double shift) {
  auto equilibrated = equilibrate(gram);
  if (!equilibrated) return std::nullopt;
  for (Index j = 0; j < gram.rows(); ++j) at(equilibrated->gram, j, j) += shift;
  auto factor = upper_cholesky(equilibrated->gram);
  if (factor) factor = scaled_columns(std::move(*factor), values(equilibrated->norms));
  return factor;
}

/// h^T h
template <class T, class B>
Eigen::MatrixXd gram_of(const B& backend, MatrixView<T> h) {
  return backend.gram(MatrixView<const T>(h), MatrixView<const T>(h));
}

/// q^T h
template <class T, class B>
Eigen::MatrixXd gram_with(const B& backend, MatrixView<const T> q, MatrixView<T> h) {
  return backend.gram(q, MatrixView<const T>(h));
}

/// One pass of CholeskyQR: h <- h R^-1, r <- R r. False, with nothing changed, where Cholesky breaks down.
/// \param gram  of h; it is updated
template <class T, class B>
bool cholesky_qr_pass(const B& backend, MatrixView<T> h, Eigen::MatrixXd& gram, double shift, Eigen::MatrixXd& r) {
  const auto factor = cholesky_factor(gram, shift);
  if (!factor) return false;
  gram = backend.multiply(MatrixView<const T>(h), inverse_upper(*factor), h);
  r = small_product(*factor, r);
  return true;
}

/// Repeats CholeskyQR passes on almost orthonormal columns until the contract max |Q^T Q - I| <= 16 u holds with room.
/// \param gram  of q
/// \returns the Gram matrix of q as it is then
template <class T, class B>
Eigen::MatrixXd polish(const B& backend, MatrixView<T> q, Eigen::MatrixXd gram, Eigen::MatrixXd& r) {
  for (int pass = 0; pass < 3 && distance_from_identity(gram) > 4 * unit_roundoff<T>(); ++pass) {
    if (!cholesky_qr_pass(backend, q, gram, 0.0, r)) break;
  }
  return gram;
}

/// The smallest of descending singular values over the largest; 1 of none.
inline double reciprocal_condition(const Eigen::VectorXd& singular) {
  return singular.size() == 0 ? 1.0 : values(singular).back() / values(singular).front();
}

/// Smallest eigenvalue of an equilibrated Gram matrix over its largest: about 1 / cond^2; 0 with a zero column or none.
inline double reciprocal_condition_squared(const Eigen::MatrixXd& gram) {
  const auto equilibrated = equilibrate(gram);
  return equilibrated && gram.size() > 0 ? reciprocal_condition(small_svd(equilibrated->gram).s)
                                         : 0;  // positive semidefinite
}

/// At most that ratio, from a Cholesky factorisation alone: both norms are taken of all singular values. 0 where it
/// breaks down.
inline double least_reciprocal_condition_squared(const Eigen::MatrixXd& gram) {
  const auto equilibrated = equilibrate(gram);
  const auto factor = equilibrated ? upper_cholesky(equilibrated->gram) : std::nullopt;
  if (!factor || gram.size() == 0) return 0;
  const Eigen::MatrixXd inverse = inverse_upper(*factor);
  return 1 / (squared_norm(values(*factor)) * squared_norm(values(inverse)));
}

/// Condition number of R with its columns scaled to unit length; the largest number where R is not finite.
inline double equilibrated_condition(Eigen::MatrixXd r) {
  for (Index j = 0; j < r.cols(); ++j) {
    const double length = norm(column(r, j));
    if (!is_finite(length) || !(length > 0)) return std::numeric_limits<double>::max();
    scale(column(r, j), 1 / length);
  }
  return 1 / reciprocal_condition(small_svd(r).s);
}

/// H = Q R with Q = h * pending: the last product of CholeskyQR is left to the caller, who may have more to multiply.
struct DeferredQr {
  Index rank = 0;
  Eigen::MatrixXd r;        // rank x m
  Eigen::MatrixXd pending;  // rank x rank, to be applied to the first `rank` columns of h
};

[[noreturn]] inline void throw_breakdown(const char* name, Index rows, Index cols, int pass) {
  throw NumericalError(
      detail::text({"ogpsa: ", name, " broke down on a matrix of ", size_text(rows, cols), " in pass ", pass,
                    ": it is too ill-conditioned or rank-deficient; use Orthonormalization::automatic or cgs2"}));
}

/// `passes` passes of CholeskyQR, the first with a shift where asked for, the last one deferred.
/// \param gram  of h, as it is
template <class T, class B>
DeferredQr cholesky_qr(const B& backend, MatrixView<T> h, Eigen::MatrixXd gram, int passes, bool shifted) {
  const char* name = shifted ? "shifted CholeskyQR3" : "CholeskyQR2";
  Eigen::MatrixXd r = identity(h.cols);
  const double m = static_cast<double>(h.cols);
  // Fukaya et al. 2020, eq. (4.1), for a Gram matrix whose sums are accurate to a few u: 11 m (m + 1) u.
  double shift = shifted ? 11 * m * (m + 1) * unit_roundoff<double>() : 0.0;
  for (int pass = 1; pass < passes; ++pass) {
    if (!cholesky_qr_pass(backend, h, gram, shift, r)) throw_breakdown(name, h.rows, h.cols, pass);
    shift = 0;
  }
  const auto factor = cholesky_factor(gram, shift);
  if (!factor) throw_breakdown(name, h.rows, h.cols, passes);
  r = small_product(*factor, r);
  // Beyond its condition Cholesky may go through and leave an inaccurate R.
  if (!(equilibrated_condition(r) <= (shifted ? 1e13 : 1e8))) throw_breakdown(name, h.rows, h.cols, passes);
  return {h.cols, std::move(r), inverse_upper(*factor)};
}

/// One pass leaves an error of about u cond^2 in double: for float that is often rounding already.
template <class T>
bool one_pass_is_exact(double reciprocal_condition_squared) {
  return unit_roundoff<double>() < 0.1 * unit_roundoff<T>() * reciprocal_condition_squared;
}

/// The factorisation of columns with this Gram matrix where it takes no pass over them but the deferred product.
template <class T>
std::optional<DeferredQr> factorize_at_once(const Eigen::MatrixXd& gram, double tolerance) {
  const double condition = least_reciprocal_condition_squared(gram);
  if (!one_pass_is_exact<T>(condition) || !(condition > std::max(1e-13, tolerance * tolerance))) return std::nullopt;
  auto factor = cholesky_factor(gram, 0);
  if (!factor) return std::nullopt;
  Eigen::MatrixXd inverse = inverse_upper(*factor);
  return DeferredQr{gram.cols(), std::move(*factor), std::move(inverse)};
}

}  // namespace ogpsa::detail
