#pragma once

#include "ogpsa/orthonormalize.hpp"

namespace ogpsa {

/// Thin SVD of a tall matrix, H = U diag(s) V^T: U (n x r) replaces H in place, s (r) and V (m x r) are on the host.
struct ThinSvd {
  Eigen::VectorXd singular_values;  ///< descending
  Eigen::MatrixXd v;
};

/// Thin SVD through the small problem: H = QR, then the SVD of R (Golub and Van Loan, 5.4.5). The first r columns of
/// `h` become U, where r is the rank that `orthonormalize` found; the input must be finite.
/// \throws NumericalError as `orthonormalize`.
template <class T, class B>
requires Backend<B, T> ThinSvd thin_svd(const B& backend, MatrixView<T> h,
                                        Orthonormalization method = Orthonormalization::automatic) {
  const QrFactor qr = orthonormalize(backend, h, method);
  const auto small = detail::small_svd(qr.r);
  const MatrixView<T> q = h.columns(0, qr.rank);
  Eigen::MatrixXd ignored = detail::identity(qr.rank);
  detail::polish(backend, q, backend.multiply(MatrixView<const T>(q), small.u, q), ignored);
  return {small.s, small.v};
}

}  // namespace ogpsa
