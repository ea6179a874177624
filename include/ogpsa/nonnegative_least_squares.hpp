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
    for (std::size_t i = 0; i < columns.size(); ++i) {
      assign(column(active, static_cast<Eigen::Index>(i)), column(unit_, columns[i]));
    }
    const SmallSvd svd = small_svd(active);
    residual_ = b_;
    const Column residual = values(residual_);
    Eigen::VectorXd z = zeros(active.cols());
    for (Eigen::Index i = 0; i < svd.s.size(); ++i) {
      if (!(at(svd.s, i) > 8 * std::numeric_limits<double>::epsilon() * at(svd.s, 0))) continue;
      const ConstColumn u = column(svd.u, i);
      add_scaled(values(z), dot(u, values(b_)) / at(svd.s, i), column(svd.v, i));
      for (int pass = 0; pass < 2; ++pass) add_scaled(residual, -dot(u, residual), u);
    }
    coefficients_ = zeros(unit_.cols());
    for (std::size_t i = 0; i < columns.size(); ++i) at(coefficients_, columns[i]) = values(z)[i];
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
      if (!set.has(j) || at(z, j) > 0) continue;
      const double reach = at(x, j) > 0 ? at(x, j) / (at(x, j) - at(z, j)) : 0.0;
      if (blocking >= 0 && reach >= step) continue;
      step = reach;
      blocking = j;
    }
    if (blocking < 0) break;
    for (Eigen::Index j = 0; j < x.size(); ++j) at(x, j) = std::max(0.0, at(x, j) + step * (at(z, j) - at(x, j)));
    at(x, blocking) = 0;
    set.set(blocking, false);
    set.solve();
  }
  x = set.coefficients();
}

/// Lawson and Hanson's active-set method for unit or zero columns and b of moderate size.
inline NonnegativeLeastSquares active_set_method(const Eigen::MatrixXd& unit, const Eigen::VectorXd& b) {
  const double tolerance = 16 * std::numeric_limits<double>::epsilon() * norm(values(b));
  Eigen::VectorXd x = zeros(unit.cols());
  ActiveSet set(unit, b);
  std::vector<char> refused(static_cast<std::size_t>(unit.cols()), 0);
  const auto strongest = [&] {
    Eigen::Index best = -1;
    double most = tolerance;
    for (Eigen::Index j = 0; j < unit.cols(); ++j) {
      if (set.has(j) || refused[static_cast<std::size_t>(j)]) continue;
      const double pull = dot(column(unit, j), values(set.residual()));
      if (!(pull > most)) continue;
      most = pull;
      best = j;
    }
    return best;
  };
  for (Eigen::Index enter = strongest(); enter >= 0; enter = strongest()) {
    const ActiveSet before = set;
    set.set(enter, true);
    set.solve();
    Eigen::VectorXd next = x;
    if (at(set.coefficients(), enter) > 0) keep_positive(set, next);
    // By rounding a nearly dependent column may bring nothing; without progress there could be a cycle.
    if (set.has(enter) && norm(values(set.residual())) < norm(values(before.residual()))) {
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
  Eigen::VectorXd fitted = b;
  add_scaled(values(fitted), -1, values(set.residual()));
  return {std::move(x), std::move(fitted)};
}

}  // namespace detail

/// min |A x - b|^2 with x >= 0, for a small A (k x K): the active-set method of Lawson and Hanson (1974, chapter 23).
/// Columns of A may be dependent or zero; the scale of each, and of b, is free.
inline NonnegativeLeastSquares nonnegative_least_squares(const Eigen::MatrixXd& a, const Eigen::VectorXd& b) {
  const double size = detail::max_abs(detail::values(b));
  NonnegativeLeastSquares result{detail::zeros(a.cols()), detail::zeros(b.size())};
  if (a.size() == 0 || !(size > 0)) return result;
  Eigen::MatrixXd unit = a;
  Eigen::VectorXd norms(a.cols()), unit_b = b;
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    const auto column = detail::column(unit, j);
    const double length = detail::at(norms, j) = detail::stable_norm(column);
    for (double& value : column) value = length > 0 ? value / length : 0.0;
    if (length > 0) detail::scale(column, 1 / detail::norm(column));
  }
  for (double& value : detail::values(unit_b)) value /= size;
  result = detail::active_set_method(unit, unit_b);
  detail::scale(detail::values(result.fitted), size);
  for (Eigen::Index j = 0; j < a.cols(); ++j) {
    const double length = detail::at(norms, j);
    detail::at(result.x, j) *= length > 0 ? size / length : 0.0;
  }
  return result;
}

}  // namespace ogpsa
