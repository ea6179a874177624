#pragma once

#include <limits>
#include <vector>

#include "ogpsa/small_dense.hpp"

namespace ogpsa {

/// min |A x - b|^2 with x >= 0, for a small A (k x K): the active-set method of Lawson and Hanson (1974, chapter 23).
/// Columns of A may be dependent or zero; the scale of each is free.
inline Eigen::VectorXd nonnegative_least_squares(const Eigen::MatrixXd& a, const Eigen::VectorXd& b) {
  using Eigen::Index;
  const Index count = a.cols();
  Eigen::VectorXd x = Eigen::VectorXd::Zero(count);
  if (count == 0 || a.rows() == 0 || !(b.cwiseAbs().maxCoeff() > 0)) return x;
  Eigen::VectorXd norms = a.colwise().norm();
  Eigen::MatrixXd unit = a;
  for (Index j = 0; j < count; ++j) {
    if (norms(j) > 0) unit.col(j) /= norms(j);
  }
  const double tolerance = 64 * std::numeric_limits<double>::epsilon() * b.norm();
  std::vector<char> passive(static_cast<std::size_t>(count), 0);
  // Each round adds one column or proves optimality; the bound only guards against cycling by rounding.
  for (Index round = 0; round < 10 * count + 10; ++round) {
    const Eigen::VectorXd pull = unit.transpose() * (b - unit * x);
    Index enter = -1;
    for (Index j = 0; j < count; ++j) {
      if (passive[static_cast<std::size_t>(j)] || !(norms(j) > 0) || pull(j) <= tolerance) continue;
      if (enter < 0 || pull(j) > pull(enter)) enter = j;
    }
    if (enter < 0) break;
    passive[static_cast<std::size_t>(enter)] = 1;
    while (true) {
      std::vector<Index> columns;
      for (Index j = 0; j < count; ++j) {
        if (passive[static_cast<std::size_t>(j)]) columns.push_back(j);
      }
      if (columns.empty()) break;
      Eigen::MatrixXd active(a.rows(), static_cast<Index>(columns.size()));
      for (std::size_t j = 0; j < columns.size(); ++j) active.col(static_cast<Index>(j)) = unit.col(columns[j]);
      const Eigen::VectorXd z = detail::least_squares(active, b);
      double step = 1;
      for (std::size_t j = 0; j < columns.size(); ++j) {
        const double zj = z(static_cast<Index>(j));
        const double xj = x(columns[j]);
        if (zj <= 0) step = std::min(step, xj > 0 ? xj / (xj - zj) : 0.0);
      }
      for (std::size_t j = 0; j < columns.size(); ++j) {
        double& xj = x(columns[j]);
        xj += step * (z(static_cast<Index>(j)) - xj);
        if (step < 1 && (xj <= 0 || z(static_cast<Index>(j)) <= 0) && xj <= 1e-15 * b.norm()) {
          xj = 0;
          passive[static_cast<std::size_t>(columns[j])] = 0;
        }
      }
      if (step >= 1) break;
    }
  }
  for (Index j = 0; j < count; ++j) {
    if (norms(j) > 0) x(j) /= norms(j);
  }
  return x;
}

}  // namespace ogpsa
