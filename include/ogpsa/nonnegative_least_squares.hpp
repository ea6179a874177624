#pragma once

#include <limits>
#include <vector>

#include "ogpsa/small_dense.hpp"

namespace ogpsa {

/// x >= 0 that minimises |A x - b|^2, and the nearest point `fitted` = A x. With nearly dependent columns x is huge and
/// A x loses its digits; `fitted` does not.
struct NonnegativeLeastSquares {
  Eigen::VectorXd x;
  Eigen::VectorXd fitted;
};

namespace detail {

/// Columns in use, and b projected onto their span.
class ActiveSet {
 public:
  ActiveSet(const Eigen::MatrixXd& unit, const Eigen::VectorXd& b)
      : unit_(unit), b_(b), in_use_(static_cast<std::size_t>(unit.cols()), 0) {
    solve();
  }

  bool has(Eigen::Index j) const { return in_use_[static_cast<std::size_t>(j)] != 0; }
  void set(Eigen::Index j, bool used) { in_use_[static_cast<std::size_t>(j)] = used; }
  /// Coefficients of the least-squares solution; 0 for columns that are not in use.
  const Eigen::VectorXd& coefficients() const { return coefficients_; }
  const Eigen::VectorXd& residual() const { return residual_; }

  /// Solves for the columns in use. The residual comes from an orthonormal basis, twice, and not from the coefficients.
  void solve() {
    std::vector<Eigen::Index> columns;
    for (Eigen::Index j = 0; j < unit_.cols(); ++j) {
      if (has(j)) columns.push_back(j);
    }
    Eigen::MatrixXd active(unit_.rows(), static_cast<Eigen::Index>(columns.size()));
    for (std::size_t i = 0; i < columns.size(); ++i) active.col(static_cast<Eigen::Index>(i)) = unit_.col(columns[i]);
    const SmallSvd svd = small_svd(active);
    residual_ = b_;
    Eigen::VectorXd z = Eigen::VectorXd::Zero(active.cols());
    for (Eigen::Index i = 0; i < svd.s.size(); ++i) {
      if (!(svd.s(i) > 8 * std::numeric_limits<double>::epsilon() * svd.s(0))) continue;
      z += svd.u.col(i).dot(b_) / svd.s(i) * svd.v.col(i);
      for (int pass = 0; pass < 2; ++pass) residual_ -= svd.u.col(i).dot(residual_) * svd.u.col(i);
    }
    coefficients_ = Eigen::VectorXd::Zero(unit_.cols());
    for (std::size_t i = 0; i < columns.size(); ++i) coefficients_(columns[i]) = z(static_cast<Eigen::Index>(i));
  }

 private:
  const Eigen::MatrixXd& unit_;
  const Eigen::VectorXd& b_;
  std::vector<char> in_use_;
  Eigen::VectorXd coefficients_;
  Eigen::VectorXd residual_;
};

/// Moves x towards the set's solution and drops the columns that reach 0, until the solution is positive.
inline void keep_positive(ActiveSet& set, Eigen::VectorXd& x) {
  while (true) {
    const Eigen::VectorXd& z = set.coefficients();
    double step = 1;
    Eigen::Index blocking = -1;
    for (Eigen::Index j = 0; j < x.size(); ++j) {
      if (!set.has(j) || z(j) > 0) continue;
      const double reach = x(j) > 0 ? x(j) / (x(j) - z(j)) : 0.0;
      if (blocking >= 0 && reach >= step) continue;
      step = reach;
      blocking = j;
    }
    if (blocking < 0) break;
    x = (x + step * (z - x)).cwiseMax(0.0);
    x(blocking) = 0;
    set.set(blocking, false);
    set.solve();
  }
  x = set.coefficients();
}

/// Lawson and Hanson's active-set method for unit or zero columns and b of moderate size.
inline NonnegativeLeastSquares active_set_method(const Eigen::MatrixXd& unit, const Eigen::VectorXd& b) {
  const double tolerance = 16 * std::numeric_limits<double>::epsilon() * b.norm();
  Eigen::VectorXd x = Eigen::VectorXd::Zero(unit.cols());
  ActiveSet set(unit, b);
  std::vector<char> refused(static_cast<std::size_t>(unit.cols()), 0);
  const auto strongest = [&] {
    const Eigen::VectorXd pull = small_transposed_product(unit, set.residual());
    Eigen::Index best = -1;
    for (Eigen::Index j = 0; j < unit.cols(); ++j) {
      if (set.has(j) || refused[static_cast<std::size_t>(j)] || !(pull(j) > tolerance)) continue;
      if (best < 0 || pull(j) > pull(best)) best = j;
    }
    return best;
  };
  for (Eigen::Index enter = strongest(); enter >= 0; enter = strongest()) {
    const ActiveSet before = set;
    set.set(enter, true);
    set.solve();
    Eigen::VectorXd next = x;
    if (set.coefficients()(enter) > 0) keep_positive(set, next);
    // By rounding a nearly dependent column may bring nothing; without progress there could be a cycle.
    if (set.has(enter) && set.residual().norm() < before.residual().norm()) {
      x = next;
      refused.assign(refused.size(), 0);
    } else {
      for (Eigen::Index j = 0; j < unit.cols(); ++j) set.set(j, before.has(j));
      set.solve();
      refused[static_cast<std::size_t>(enter)] = 1;
    }
  }
  // Constraints that were refused hold with equality, so that every one of them holds whatever the rounding.
  while (true) {
    refused.assign(refused.size(), 0);
    const Eigen::Index violated = strongest();
    if (violated < 0) break;
    set.set(violated, true);
    set.solve();
  }
  return {x, b - set.residual()};
}

}  // namespace detail

/// min |A x - b|^2 with x >= 0, for a small A (k x K): the active-set method of Lawson and Hanson (1974, chapter 23).
/// Columns of A may be dependent or zero; the scale of each, and of b, is free.
inline NonnegativeLeastSquares nonnegative_least_squares(const Eigen::MatrixXd& a, const Eigen::VectorXd& b) {
  const double scale = b.size() > 0 ? b.cwiseAbs().maxCoeff() : 0.0;
  NonnegativeLeastSquares result{Eigen::VectorXd::Zero(a.cols()), Eigen::VectorXd::Zero(b.size())};
  if (a.size() == 0 || !(scale > 0)) return result;
  Eigen::MatrixXd unit = a;
  Eigen::VectorXd norms(a.cols());
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    norms(j) = a.col(j).stableNorm();
    if (norms(j) > 0) unit.col(j) = (a.col(j) / norms(j)).normalized();
  }
  result = detail::active_set_method(unit, b / scale);
  result.fitted *= scale;
  for (Eigen::Index j = 0; j < a.cols(); ++j) result.x(j) *= norms(j) > 0 ? scale / norms(j) : 0.0;
  return result;
}

}  // namespace ogpsa
