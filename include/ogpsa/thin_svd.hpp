#pragma once

#include <Eigen/SVD>

#include "ogpsa/orthonormalize.hpp"

namespace ogpsa {

/// Thin SVD of a tall matrix, H = U diag(s) V^T: U (n x r) replaces H in place, s (r) and V (m x r) are on the host.
struct ThinSvd {
  Eigen::VectorXd singular_values;  ///< descending
  Eigen::MatrixXd v;
};

namespace detail {

/// SVD of a small matrix, in double, of any shape and rank: one-sided Jacobi, which does not fail on repeated,
/// clustered or zero singular values.
struct SmallSvd {
  Eigen::MatrixXd u;
  Eigen::VectorXd s;
  Eigen::MatrixXd v;
};
inline SmallSvd small_svd(const Eigen::MatrixXd& a) {
  if (a.rows() == 0 || a.cols() == 0) {
    return {Eigen::MatrixXd::Zero(a.rows(), 0), Eigen::VectorXd(0), Eigen::MatrixXd::Zero(a.cols(), 0)};
  }
  const double scale = a.cwiseAbs().maxCoeff();
  if (!(scale > 0)) {
    const Eigen::Index r = std::min(a.rows(), a.cols());
    return {Eigen::MatrixXd::Identity(a.rows(), r), Eigen::VectorXd::Zero(r), Eigen::MatrixXd::Identity(a.cols(), r)};
  }
  const Eigen::JacobiSVD<Eigen::MatrixXd> svd(a / scale, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.singularValues() * scale, svd.matrixV()};
}

}  // namespace detail

/// Thin SVD through the small problem: H = QR, then the SVD of R (Golub and Van Loan, 5.4.5). The first r columns of
/// `h` become U, where r is the rank that `orthonormalize` found; the input must be finite.
/// \throws NumericalError as `orthonormalize`.
template <class T, class B>
requires Backend<B, T> ThinSvd thin_svd(const B& backend, MatrixView<T> h,
                                        Orthonormalization method = Orthonormalization::automatic) {
  const QrFactor qr = orthonormalize(backend, h, method);
  const auto small = detail::small_svd(qr.r);
  const MatrixView<T> q = h.columns(0, qr.rank);
  if (qr.rank > 0) backend.multiply(q, small.u);
  Eigen::MatrixXd identity = Eigen::MatrixXd::Identity(qr.rank, qr.rank);
  detail::polish(backend, q, identity);
  return {small.s, small.v};
}

}  // namespace ogpsa
