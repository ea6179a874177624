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

/// c <- c + alpha op(a) op(b), on one thread. All dense products go through here: it keeps compilation short, since
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

}  // namespace ogpsa::detail
