#pragma once

#include <Eigen/Core>
#include <type_traits>

#include "ogpsa/tensor_view.hpp"

namespace ogpsa::detail {

template <class T>
using Dense = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;

/// A view as an Eigen map.
template <class T>
auto as_eigen(MatrixView<T> a) {
  using M = std::conditional_t<std::is_const_v<T>, const Dense<std::remove_const_t<T>>, Dense<T>>;
  return Eigen::Map<M, 0, Eigen::OuterStride<>>(a.data, a.rows, a.cols, Eigen::OuterStride<>(a.stride));
}

template <class T>
MatrixView<T> view_of(Dense<T>& m) {
  return {m.data(), m.rows(), m.cols()};
}
template <class T>
MatrixView<const T> view_of(const Dense<T>& m) {
  return {m.data(), m.rows(), m.cols()};
}

enum class Transpose { no, yes };

/// c <- c + alpha op(a) op(b). All dense products go through here: it keeps compilation short, since
/// each combination of Eigen's expressions is compiled anew, and it is the place to put another GEMM.
template <class T>
void gemm(T alpha, MatrixView<const T> a, Transpose transpose_a, MatrixView<const T> b, Transpose transpose_b,
          MatrixView<T> c) {
  if (a.empty() || b.empty()) return;
  const auto left = as_eigen(a);
  const auto right = as_eigen(b);
  auto sum = as_eigen(c);
  if (transpose_a == Transpose::yes) {
    sum.noalias() += alpha * left.transpose() * right;
  } else if (transpose_b == Transpose::yes) {
    sum.noalias() += alpha * left * right.transpose();
  } else {
    sum.noalias() += alpha * left * right;
  }
}

/// op(a) b, where the sums are long: at most 64 terms (32 for double) are added in the arithmetic type, then pairwise
/// in double. Even where all roundings go one way (constant data) the error stays below about 16 u.
template <class T>
Eigen::MatrixXd long_product(MatrixView<const T> a, Transpose transpose_a, MatrixView<const T> b) {
  const bool transposed = transpose_a == Transpose::yes;
  constexpr Index most = sizeof(T) == 8 ? 32 : 64;
  if (b.rows <= most) {
    Dense<T> product = Dense<T>::Zero(transposed ? a.cols : a.rows, b.cols);
    gemm<T>(1, a, transpose_a, b, Transpose::no, view_of(product));
    return product.template cast<double>();
  }
  const Index half = (b.rows / 2 + most - 1) / most * most;
  const auto part = [&](Index first, Index count) {
    return long_product(transposed ? a.row_range(first, count) : a.columns(first, count), transpose_a,
                        b.row_range(first, count));
  };
  Eigen::MatrixXd sum = part(0, half);
  sum += part(half, b.rows - half);
  return sum;
}

}  // namespace ogpsa::detail
