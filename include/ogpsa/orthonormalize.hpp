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

/// max |G - I|; infinite where G is not finite.
inline double distance_from_identity(const Eigen::MatrixXd& gram) {
  if (gram.size() == 0) return 0;
  if (!all_finite(gram)) return std::numeric_limits<double>::infinity();
  return (gram - Eigen::MatrixXd::Identity(gram.rows(), gram.cols())).cwiseAbs().maxCoeff();
}

/// Upper Cholesky factor of a Gram matrix with `shift` (relative to its columns' squared norms) on the diagonal, or
/// nothing where it is not numerically positive definite. Columns are equilibrated first, so their scale is free.
inline std::optional<Eigen::MatrixXd> cholesky_factor(const Eigen::MatrixXd& gram, double shift) {
  const Eigen::VectorXd norms = gram.diagonal().cwiseSqrt();
  if (!(norms.minCoeff() > 0)) return std::nullopt;
  const Eigen::VectorXd inverse = norms.cwiseInverse();
  Eigen::MatrixXd equilibrated = scaled(inverse, gram, inverse);
  equilibrated.diagonal().array() += shift;
  auto factor = upper_cholesky(equilibrated);
  if (factor) *factor *= norms.asDiagonal();
  return factor;
}

/// One pass of CholeskyQR: h <- h R^-1, r <- R r. False, with nothing changed, where Cholesky breaks down.
template <class T, class B>
bool cholesky_qr_pass(const B& backend, MatrixView<T> h, const Eigen::MatrixXd& gram, double shift,
                      Eigen::MatrixXd& r) {
  const auto factor = cholesky_factor(gram, shift);
  if (!factor) return false;
  backend.multiply(h, inverse_upper(*factor));
  r = small_product(*factor, r);
  return true;
}

/// Repeats CholeskyQR passes on almost orthonormal columns until the contract max |Q^T Q - I| <= 16 u holds with room.
template <class T, class B>
void polish(const B& backend, MatrixView<T> q, Eigen::MatrixXd& r) {
  for (int pass = 0; pass < 3; ++pass) {
    const Eigen::MatrixXd gram = backend.gram(MatrixView<const T>(q), MatrixView<const T>(q));
    if (distance_from_identity(gram) <= 4 * unit_roundoff<T>()) return;
    if (!cholesky_qr_pass(backend, q, gram, 0.0, r)) break;
  }
}

template <class T, class B>
QrFactor cgs2(const B& backend, MatrixView<T> h, std::span<const double> reference_norms, double tolerance) {
  QrFactor result{0, Eigen::MatrixXd::Zero(0, h.cols)};
  Eigen::MatrixXd r = Eigen::MatrixXd::Zero(h.cols, h.cols);
  for (Index j = 0; j < h.cols; ++j) {
    const MatrixView<T> column = h.columns(j, 1);
    const MatrixView<const T> q = h.columns(0, result.rank);
    const auto norm = [&] {
      return std::sqrt(backend.gram(MatrixView<const T>(column), MatrixView<const T>(column))(0, 0));
    };
    const double original = norm();
    double before = original;
    double after = original;
    // "Twice is enough" for independent columns; a nearly dependent one is repeated until its norm settles.
    for (int pass = 0; pass < 5 && result.rank > 0 && after > 0; ++pass) {
      const Eigen::MatrixXd c = backend.gram(q, MatrixView<const T>(column));
      backend.subtract_product(column, q, c);
      r.col(j).head(result.rank) += c;
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
    r(result.rank, j) = after;
    ++result.rank;
  }
  result.r = r.topRows(result.rank);
  return result;
}

/// Smallest eigenvalue of an equilibrated Gram matrix over its largest: about 1 / cond^2; 0 with a zero column.
inline double reciprocal_condition_squared(const Eigen::MatrixXd& gram) {
  const Eigen::VectorXd norms = gram.diagonal().cwiseSqrt();
  if (gram.size() == 0 || !(norms.minCoeff() > 0)) return 0;
  const Eigen::VectorXd inverse = norms.cwiseInverse();
  const Eigen::VectorXd eigenvalues =
      small_svd(scaled(inverse, gram, inverse)).s;  // singular values of a positive semidefinite matrix
  return eigenvalues(gram.rows() - 1) / eigenvalues(0);
}

/// Condition number of R with its columns scaled to unit length; infinite where R is not finite.
inline double equilibrated_condition(const Eigen::MatrixXd& r) {
  if (r.size() == 0) return 1;
  const Eigen::VectorXd norms = r.colwise().norm();
  if (!all_finite(norms) || !(norms.minCoeff() > 0)) return std::numeric_limits<double>::infinity();
  const Eigen::VectorXd s = small_svd(r * norms.cwiseInverse().asDiagonal()).s;
  return s(0) / s(r.cols() - 1);
}

/// H = Q R with Q = h * pending: the last product of CholeskyQR is left to the caller, who may have more to multiply.
struct DeferredQr {
  Index rank = 0;
  Eigen::MatrixXd r;        // rank x m
  Eigen::MatrixXd pending;  // rank x rank, to be applied to the first `rank` columns of h
};

[[noreturn]] inline void throw_breakdown(const char* name, Index rows, Index cols, int pass) {
  throw NumericalError(std::string("ogpsa: ") + name + " broke down on a matrix of " + size_text(rows, cols) +
                       " in pass " + std::to_string(pass) +
                       ": it is too ill-conditioned or rank-deficient; use Orthonormalization::automatic or cgs2");
}

/// `passes` passes of CholeskyQR, the first with a shift where asked for, the last one deferred.
/// \param gram  of h, as it is
template <class T, class B>
DeferredQr cholesky_qr(const B& backend, MatrixView<T> h, Eigen::MatrixXd gram, int passes, bool shifted) {
  const char* name = shifted ? "shifted CholeskyQR3" : "CholeskyQR2";
  Eigen::MatrixXd r = Eigen::MatrixXd::Identity(h.cols, h.cols);
  const double m = static_cast<double>(h.cols);
  // Fukaya et al. 2020, eq. (4.1), for a Gram matrix whose sums are accurate to a few u: 11 m (m + 1) u.
  double shift = shifted ? 11 * m * (m + 1) * unit_roundoff<double>() : 0.0;
  for (int pass = 1; pass < passes; ++pass) {
    if (!cholesky_qr_pass(backend, h, gram, shift, r)) throw_breakdown(name, h.rows, h.cols, pass);
    gram = backend.gram(MatrixView<const T>(h), MatrixView<const T>(h));
    shift = 0;
  }
  const auto factor = cholesky_factor(gram, shift);
  if (!factor) throw_breakdown(name, h.rows, h.cols, passes);
  r = small_product(*factor, r);
  // Beyond its condition Cholesky may go through and leave an inaccurate R.
  if (!(equilibrated_condition(r) <= (shifted ? 1e13 : 1e8))) throw_breakdown(name, h.rows, h.cols, passes);
  return {h.cols, std::move(r), inverse_upper(*factor)};
}

/// True when no column's squared norm, on the diagonal of the Gram matrix, is near an end of the range of double. False
/// for zero columns, and where a column is not finite.
inline bool in_range(const Eigen::MatrixXd& gram) {
  return all_finite(gram.diagonal()) && (gram.diagonal().array() > 1e-24).all() &&
         (gram.diagonal().array() < 1e24).all();
}

/// Powers of two bring extreme columns into range, so that squares neither overflow nor vanish; this is exact.
/// \param gram  of h; it is updated
/// \returns factors: a column as it was is its factor times the column as it is now
template <class T, class B>
Eigen::VectorXd bring_into_range(const B& backend, MatrixView<T> h, Eigen::MatrixXd& gram) {
  Eigen::VectorXd factors = Eigen::VectorXd::Ones(h.cols);
  if (in_range(gram)) return factors;
  std::vector<double> scale = backend.column_max_abs(MatrixView<const T>(h));
  for (double& s : scale) s = std::min(s, 0x1p1000);  // so that the sum is finite
  backend.all_reduce(std::span<double>(scale));       // every rank has to scale alike
  for (Index j = 0; j < h.cols; ++j) {
    double& s = scale[static_cast<std::size_t>(j)];
    const int exponent = s > 0 ? std::max(std::ilogb(s), -1022) : 0;  // 2^1022 is finite, 2^1074 is not
    if (!in_range(gram.block(j, j, 1, 1))) factors(j) = std::ldexp(1.0, exponent);
    s = 1 / factors(j);
  }
  backend.scale_columns(h, std::span<const double>(scale));
  gram = backend.gram(MatrixView<const T>(h), MatrixView<const T>(h));
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
  // above the rounding of a double Gram matrix; beyond it, and for dependent columns, CGS2 too.
  const double condition = reciprocal_condition_squared(gram);
  const bool well = reference_norms.empty() && condition > std::max(1e-13, tolerance * tolerance);
  if (method == Method::automatic && well) {
    // One pass leaves an error of about u cond^2 in double: for float that is often rounding already.
    const bool once = unit_roundoff<double>() < 0.1 * unit_roundoff<T>() * condition;
    return cholesky_qr(backend, h, gram, once ? 1 : 2, false);
  }
  QrFactor qr = cgs2(backend, h, reference_norms, tolerance);
  return {qr.rank, std::move(qr.r), Eigen::MatrixXd::Identity(qr.rank, qr.rank)};
}

/// `orthonormalize` for columns in range (see `bring_into_range`), or of a residual that may vanish.
template <class T, class B>
QrFactor orthonormalize_in_range(const B& backend, MatrixView<T> h, const Eigen::MatrixXd& gram,
                                 Orthonormalization method, double tolerance, std::span<const double> reference_norms) {
  DeferredQr qr = factorize(backend, h, gram, method, tolerance, reference_norms);
  const MatrixView<T> q = h.columns(0, qr.rank);
  if (!qr.pending.isIdentity(0)) backend.multiply(q, qr.pending);
  polish(backend, q, qr.r);
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
  Eigen::MatrixXd gram = backend.gram(MatrixView<const T>(h), MatrixView<const T>(h));
  const Eigen::VectorXd factors = detail::bring_into_range(backend, h, gram);
  std::vector<double> references(reference_norms.begin(), reference_norms.end());
  for (std::size_t j = 0; j < references.size(); ++j) references[j] /= factors(static_cast<Index>(j));
  QrFactor qr = detail::orthonormalize_in_range(backend, h, gram, method, tolerance, references);
  qr.r *= factors.asDiagonal();
  return qr;
}

}  // namespace ogpsa
