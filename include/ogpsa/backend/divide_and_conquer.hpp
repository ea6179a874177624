#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/backend/gemm.hpp"
#include "ogpsa/backend/parallel.hpp"
#include "ogpsa/backend/qr_steps.hpp"
#include "ogpsa/backend/secular.hpp"

/// \file
/// Eigenvectors of a symmetric tridiagonal matrix by divide and conquer (Cuppen 1981; Gu and Eisenstat 1995): most of
/// the work is in matrix products, repeated eigenvalues cost nothing, and the last merge, half of all, makes only those
/// vectors that are wanted.

namespace ogpsa::detail {

/// Where eigenvectors go.
struct EigenvectorColumns {
  MatrixView<double> to;
  bool descending = false;  ///< the last eigenvector becomes the first column

  double* column(Index i) const { return to.data + (descending ? to.rows - 1 - i : i) * to.stride; }
};

/// Two halves of a tridiagonal matrix, each solved, and the element that joined them: T = diag(T_1, T_2) + rho v v^T.
class Merge {
 public:
  /// \param d      eigenvalues of the halves, each ascending; replaced by those of T
  /// \param q      (n x n) eigenvectors of the halves in its diagonal blocks, zero elsewhere; destroyed
  /// \param first  rows of the first half
  /// \param joint  the element between the halves
  Merge(std::span<double> d, MatrixView<double> q, Index first, double joint)
      : d_(d), q_(q), first_(first), rho_(2 * std::abs(joint)), z_(d.size()), rows_(d.size()) {
    for (Index i = 0; i < q.rows; ++i) {
      const double element = i < first ? q.data[first - 1 + i * q.stride] : q.data[first + i * q.stride];
      z(i) = (i < first || joint >= 0 ? element : -element) * std::sqrt(0.5);
      rows_[static_cast<std::size_t>(i)] = i < first ? Rows::upper : Rows::lower;
    }
    deflate();
    for (const Index i : kept_) {
      poles_.push_back(d_[static_cast<std::size_t>(i)]);
      weights_.push_back(z(i));
    }
    const SecularEquation equation(poles_, weights_, rho_);
    roots_.resize(kept_.size());
    parallel_for(kept(), kept() * kept() >= kWorthThreads,
                 [&](Index j) { roots_[static_cast<std::size_t>(j)] = equation.root(j); });
    exact_ = equation.exact_vector(roots_);
    sort();
  }

  /// The last `wanted` eigenvectors.
  void vectors(Index wanted, const EigenvectorColumns& to) {
    const Index n = q_.rows, skipped = n - wanted;
    pack();
    std::vector<Index> columns;  // of those that are kept
    for (Index i = skipped; i < n; ++i) {
      const Index source = order_[static_cast<std::size_t>(i)];
      if (source < kept()) columns.push_back(i);
    }
    for (Index i = skipped; i < n; ++i) {
      const Index source = order_[static_cast<std::size_t>(i)];
      if (source >= kept()) std::copy_n(packed_.data() + packed_deflated_ + (source - kept()) * n, n, to.column(i));
    }
    const Segments panels(static_cast<Index>(columns.size()), 48, 96, 64);
    parallel_for(panels.count, kept() * n >= kWorthThreads, [&](Index p) {
      const std::span<const Index> some(columns.data() + panels.begin(p),
                                        static_cast<std::size_t>(panels.end(p) - panels.begin(p)));
      multiply(some, to);
    });
  }

 private:
  enum class Rows { upper, both, lower };  // where a column of q is not zero

  double& z(Index i) { return z_[static_cast<std::size_t>(i)]; }
  Index kept() const { return static_cast<Index>(kept_.size()); }

  /// Eigenvalues of the halves that are those of T too, but for rounding: their z vanishes, or can be made to by a
  /// rotation of two whose eigenvalues are alike.
  void deflate() {
    std::vector<Index> order(d_.size());
    std::iota(order.begin(), order.end(), Index{0});
    const auto d = [&](Index i) -> double& { return d_[static_cast<std::size_t>(i)]; };
    std::inplace_merge(order.begin(), order.begin() + first_, order.end(),
                       [&](Index i, Index j) { return d(i) < d(j); });
    double largest = 0;
    for (const Index i : order) largest = std::max({largest, std::abs(d(i)), std::abs(z(i))});
    const double tolerance = 4 * std::numeric_limits<double>::epsilon() * largest;
    Index open = -1;  // the latest that is not deflated
    for (const Index i : order) {
      if (rho_ * std::abs(z(i)) <= tolerance) {
        deflated_.push_back(i);
        continue;
      }
      if (open >= 0) {
        const double length = std::hypot(z(i), z(open)), c = z(i) / length, s = z(open) / length;
        if (std::abs((d(i) - d(open)) * c * s) <= tolerance) {
          rotate_away(open, i, {c, s}, length);
          deflated_.push_back(open);
        } else {
          kept_.push_back(open);
        }
      }
      open = i;
    }
    if (open >= 0) kept_.push_back(open);
  }
  void rotate_away(Index gone, Index stays, Rotation turn, double length) {
    double &upper = d_[static_cast<std::size_t>(gone)], &lower = d_[static_cast<std::size_t>(stays)];
    const double c = turn.c, s = turn.s, before = upper;
    upper = before * c * c + lower * s * s;
    lower = before * s * s + lower * c * c;
    z(gone) = 0;
    z(stays) = length;
    auto &a = rows_[static_cast<std::size_t>(gone)], &b = rows_[static_cast<std::size_t>(stays)];
    if (a != b) a = b = Rows::both;
    double *x = q_.data + gone * q_.stride, *y = q_.data + stays * q_.stride;
    for (Index r = 0; r < q_.rows; ++r) {
      const double left = x[r], right = y[r];
      x[r] = c * left - s * right;
      y[r] = s * left + c * right;
    }
  }

  /// All eigenvalues in order: order_[i] is a root, or kept() + a deflated one.
  void sort() {
    std::vector<double> values;
    for (const auto& root : roots_) values.push_back(poles_[static_cast<std::size_t>(root.origin)] + root.offset);
    for (const Index i : deflated_) values.push_back(d_[static_cast<std::size_t>(i)]);
    order_.resize(values.size());
    std::iota(order_.begin(), order_.end(), Index{0});
    std::stable_sort(order_.begin(), order_.end(), [&](Index i, Index j) {
      return values[static_cast<std::size_t>(i)] < values[static_cast<std::size_t>(j)];
    });
    for (std::size_t i = 0; i < order_.size(); ++i) d_[i] = values[static_cast<std::size_t>(order_[i])];
  }

  /// Copies q's columns: the upper rows of the kept ones that have any, then the lower rows, then the deflated ones.
  void pack() {
    const Index n = q_.rows;
    for (const Rows rows : {Rows::upper, Rows::both, Rows::lower}) {
      for (Index k = 0; k < kept(); ++k) {
        if (rows_[static_cast<std::size_t>(kept_[static_cast<std::size_t>(k)])] == rows) by_rows_.push_back(k);
      }
      if (rows == Rows::upper) not_upper_ = static_cast<Index>(by_rows_.size());
      if (rows == Rows::both) not_lower_ = static_cast<Index>(by_rows_.size());
    }
    packed_.reserve(static_cast<std::size_t>(n * n));
    const auto append = [&](Index column, Index begin, Index end) {
      const double* from = q_.data + column * q_.stride;
      packed_.insert(packed_.end(), from + begin, from + end);
    };
    const auto source = [&](Index i) { return kept_[static_cast<std::size_t>(by_rows_[static_cast<std::size_t>(i)])]; };
    for (Index i = 0; i < not_lower_; ++i) append(source(i), 0, first_);
    packed_lower_ = static_cast<Index>(packed_.size());
    for (Index i = not_upper_; i < kept(); ++i) append(source(i), first_, n);
    packed_deflated_ = static_cast<Index>(packed_.size());
    for (const Index i : deflated_) append(i, 0, n);
  }

  /// Eigenvectors of D + rho z z^T, times q.
  void multiply(std::span<const Index> columns, const EigenvectorColumns& to) const {
    const auto count = static_cast<Index>(columns.size());
    Eigen::MatrixXd turn(kept(), count), product = Eigen::MatrixXd::Zero(q_.rows, count);
    for (Index l = 0; l < count; ++l) {
      const auto& root =
          roots_[static_cast<std::size_t>(order_[static_cast<std::size_t>(columns[static_cast<std::size_t>(l)])])];
      const double shift = poles_[static_cast<std::size_t>(root.origin)];
      double* const column = turn.data() + l * kept();
      double squares = 0;
      for (Index i = 0; i < kept(); ++i) {
        const auto k = static_cast<std::size_t>(by_rows_[static_cast<std::size_t>(i)]);
        column[i] = exact_[k] / distance(poles_[k], shift, root.offset);
        squares += column[i] * column[i];
      }
      const double inverse = 1 / std::sqrt(squares);
      for (Index i = 0; i < kept(); ++i) column[i] *= inverse;
    }
    const auto rows = view_of(std::as_const(turn));
    const Index lower = q_.rows - first_;
    gemm<double>(1, MatrixView<const double>(packed_.data(), first_, not_lower_), Transpose::no,
                 rows.row_range(0, not_lower_), Transpose::no, view_of(product).row_range(0, first_));
    gemm<double>(1, MatrixView<const double>(packed_.data() + packed_lower_, lower, kept() - not_upper_), Transpose::no,
                 rows.row_range(not_upper_, kept() - not_upper_), Transpose::no,
                 view_of(product).row_range(first_, lower));
    for (Index l = 0; l < count; ++l) {
      std::copy_n(product.data() + l * q_.rows, q_.rows, to.column(columns[static_cast<std::size_t>(l)]));
    }
  }

  std::span<double> d_;
  MatrixView<double> q_;
  Index first_;
  double rho_;
  std::vector<double> z_;
  std::vector<Rows> rows_;
  std::vector<Index> kept_, deflated_, order_, by_rows_;
  std::vector<double> poles_, weights_, exact_;  // of those that are kept
  std::vector<SecularRoot> roots_;
  std::vector<double> packed_;
  Index not_upper_ = 0, not_lower_ = 0, packed_lower_ = 0, packed_deflated_ = 0;
};

/// Eigenvalues (into d, ascending) of a tridiagonal matrix (d and, below the diagonal, e; destroyed), and the last
/// `wanted` eigenvectors. \param q  n x n, zero; it may be where the vectors go, if all are wanted in this order
/// \returns false where QR steps did not converge.
inline bool divide_and_conquer(std::span<double> d, std::span<double> e, MatrixView<double> q, Index wanted,
                               const EigenvectorColumns& to) {
  constexpr Index smallest = 32;
  const Index n = q.rows, first = n / 2;
  if (n <= smallest) {
    for (Index i = 0; i < n; ++i) q.data[i * (q.stride + 1)] = 1;
    if (!diagonalize(d, e, q)) return false;
    for (std::size_t i = 0; i < d.size(); ++i) {  // in order
      const auto least =
          static_cast<std::size_t>(std::min_element(d.begin() + static_cast<Index>(i), d.end()) - d.begin());
      std::swap(d[i], d[least]);
      double *x = q.data + static_cast<Index>(i) * q.stride, *y = q.data + static_cast<Index>(least) * q.stride;
      if (least != i) std::swap_ranges(x, x + n, y);
    }
    for (Index i = n - wanted; to.to.data != q.data && i < n; ++i) std::copy_n(q.data + i * q.stride, n, to.column(i));
    return true;
  }
  const auto half = static_cast<std::size_t>(first);
  const double joint = e[half - 1];
  d[half - 1] -= std::abs(joint);
  d[half] -= std::abs(joint);
  const auto upper = q.columns(0, first).row_range(0, first);
  const auto lower = q.columns(first, n - first).row_range(first, n - first);
  if (!divide_and_conquer(d.first(half), e.first(half), upper, first, {upper}) ||
      !divide_and_conquer(d.subspan(half), e.subspan(half), lower, n - first, {lower})) {
    return false;
  }
  Merge(d, q, first, joint).vectors(wanted, to);
  return true;
}

}  // namespace ogpsa::detail
