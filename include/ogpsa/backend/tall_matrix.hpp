#pragma once

#include <Eigen/Core>
#include <vector>

#include "ogpsa/backend/parallel.hpp"

/// \file
/// Products of tall matrices on the host. They run over panels of rows that fit in the cache, in double whatever the
/// storage type: for float the Gram matrix is then exact enough to orthonormalise at any condition up to 1/u
/// (mixed-precision CholeskyQR; Yamazaki, Tomov and Dongarra 2015).

namespace ogpsa::detail {

template <class T>
using MatrixMap = Eigen::Map<Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>, 0, Eigen::OuterStride<>>;
template <class T>
using ConstMatrixMap = Eigen::Map<const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>, 0, Eigen::OuterStride<>>;

template <class T>
auto as_eigen(MatrixView<T> a) {
  if constexpr (std::is_const_v<T>) {
    return ConstMatrixMap<std::remove_const_t<T>>(a.data, a.rows, a.cols, Eigen::OuterStride<>(a.stride));
  } else {
    return MatrixMap<T>(a.data, a.rows, a.cols, Eigen::OuterStride<>(a.stride));
  }
}

/// Rows of a panel of `cols` columns; a function of the type and the width alone. Short for double, whose products are
/// not computed in anything wider, so that a sum over a panel stays within about one u.
template <class T>
Index panel_rows(Index cols) {
  return std::clamp<Index>(16384 / std::max<Index>(cols, 1), 64, sizeof(T) == 8 ? 64 : 256);
}

/// A sum of matrices whose error does not grow with their number (Neumaier 1974).
class CompensatedSum {
 public:
  CompensatedSum() = default;
  CompensatedSum(Index rows, Index cols) : sum_(Eigen::MatrixXd::Zero(rows, cols)), carry_(sum_) {}

  void add(const Eigen::MatrixXd& x) {
    for (Index i = 0; i < sum_.size(); ++i) {
      const double a = sum_(i);
      const double total = a + x(i);
      carry_(i) += std::abs(a) >= std::abs(x(i)) ? (a - total) + x(i) : (x(i) - total) + a;
      sum_(i) = total;
    }
  }
  void add(const CompensatedSum& other) {
    add(other.sum_);
    carry_ += other.carry_;
  }
  Eigen::MatrixXd value() const { return sum_ + carry_; }

 private:
  Eigen::MatrixXd sum_;
  Eigen::MatrixXd carry_;
};

/// Calls f(segment, first_row, panel_rows) for every panel; panels of one segment come in order, in one task.
template <class T, class F>
void for_each_panel(Index rows, Index cols, F&& f) {
  const Segments segments = row_segments(rows);
  const Index panel = panel_rows<T>(cols);
  parallel_for(segments.count, [&](Index s) {
    for (Index i = segments.begin(s); i < segments.end(s); i += panel) {
      f(s, i, std::min(panel, segments.end(s) - i));
    }
  });
}

/// a^T b (a.cols x b.cols)
template <class T>
Eigen::MatrixXd gram(MatrixView<const T> a, MatrixView<const T> b) {
  CompensatedSum total(a.cols, b.cols);
  if (a.cols == 0 || b.cols == 0) return total.value();
  const bool same = a.data == b.data && a.cols == b.cols && a.stride == b.stride;
  std::vector<CompensatedSum> parts(static_cast<std::size_t>(row_segments(a.rows).count), total);
  for_each_panel<T>(a.rows, a.cols + b.cols, [&](Index s, Index first, Index count) {
    const Eigen::MatrixXd pa = as_eigen(a.row_range(first, count)).template cast<double>();
    Eigen::MatrixXd product;
    if (same) {
      product.noalias() = pa.transpose() * pa;
    } else {
      product.noalias() = pa.transpose() * as_eigen(b.row_range(first, count)).template cast<double>().eval();
    }
    parts[static_cast<std::size_t>(s)].add(product);
  });
  for (const auto& part : parts) total.add(part);
  return total.value();
}

/// First x.cols() columns of a <- a x
template <class T>
void multiply(MatrixView<T> a, const Eigen::MatrixXd& x) {
  for_each_panel<T>(a.rows, a.cols + x.cols(), [&](Index, Index first, Index count) {
    auto panel = as_eigen(a.row_range(first, count));
    const Eigen::MatrixXd product = panel.template cast<double>().eval() * x;
    panel.leftCols(x.cols()) = product.template cast<T>();
  });
}

/// a <- a - q c
template <class T>
void subtract_product(MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) {
  if (q.cols == 0) return;
  for_each_panel<T>(a.rows, a.cols + q.cols, [&](Index, Index first, Index count) {
    auto panel = as_eigen(a.row_range(first, count));
    const Eigen::MatrixXd product = as_eigen(q.row_range(first, count)).template cast<double>().eval() * c;
    panel = (panel.template cast<double>() - product).template cast<T>();
  });
}

}  // namespace ogpsa::detail
