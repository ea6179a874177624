#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/finite.hpp"
#include "ogpsa/rank.hpp"
#include "ogpsa/small_dense.hpp"

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
