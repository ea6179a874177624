#define DOCTEST_CONFIG_IMPLEMENT  // for when the header was included before, in a precompiled one
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <Eigen/Dense>

#include "exact.hpp"

namespace test {

Eigen::MatrixXd Random::orthonormal(Index rows, Index cols) {
  const Eigen::MatrixXd a = gaussian(rows, cols);
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(a);
  return qr.householderQ() * Eigen::MatrixXd::Identity(rows, cols);
}

Eigen::MatrixXd Random::with_singular_values(Index rows, Index cols, const Eigen::VectorXd& s) {
  const Eigen::MatrixXd u = orthonormal(rows, s.size());
  return u * s.asDiagonal() * orthonormal(cols, s.size()).transpose();
}

double orthonormality_error(const MatrixL& q) {
  if (q.cols() == 0) return 0;
  const MatrixL gram = q.transpose() * q;
  return static_cast<double>((gram - MatrixL::Identity(q.cols(), q.cols())).cwiseAbs().maxCoeff());
}

ExactSvd exact_svd(const MatrixL& a) {
  if (a.size() == 0) return {MatrixL(a.rows(), 0), VectorL(0), MatrixL(a.cols(), 0)};
  const Eigen::JacobiSVD<MatrixL> svd(a, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.singularValues(), svd.matrixV()};
}

MatrixL exact_basis(const MatrixL& a, Real tolerance) {
  const auto svd = exact_svd(a);
  Index rank = 0;
  while (rank < svd.s.size() && svd.s(rank) > tolerance * svd.s(0)) ++rank;
  return svd.u.leftCols(rank);
}

double sine_of_angle(const MatrixL& a, const MatrixL& b) {
  if (a.cols() == 0) return 0;
  const MatrixL rest = b - a * (a.transpose() * b);
  return static_cast<double>(std::sqrt(exact_svd(rest.transpose() * rest).s.maxCoeff()));
}

// For the right active set A (constraints that hold with equality), d is g projected orthogonally to {h_r : r in A}.
// Of all such points that satisfy every constraint, the nearest one is the solution.
VectorL nearest_in_cone(const MatrixL& h, const VectorL& g) {
  const Index count = h.cols();
  MatrixL unit = h;
  for (Index j = 0; j < count; ++j) {
    if (unit.col(j).norm() > 0) unit.col(j) /= unit.col(j).norm();
  }
  VectorL best = VectorL::Zero(g.size());  // feasible always
  Real distance = g.norm();
  for (Index set = 0; set < (Index(1) << count); ++set) {
    MatrixL active(g.size(), 0);
    for (Index j = 0; j < count; ++j) {
      if (!(set >> j & 1)) continue;
      active.conservativeResize(g.size(), active.cols() + 1);
      active.rightCols(1) = unit.col(j);
    }
    const MatrixL basis = exact_basis(active, 1e-12L);
    const VectorL d = g - basis * (basis.transpose() * g);
    if (count > 0 && (unit.transpose() * d).minCoeff() < -1e-15L * g.norm()) continue;
    if ((d - g).norm() < distance) {
      distance = (d - g).norm();
      best = d;
    }
  }
  return best;
}

}  // namespace test
