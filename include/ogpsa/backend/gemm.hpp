#pragma once

#include <Eigen/Core>
#include <type_traits>

#include "ogpsa/backend/gemm_kernel.hpp"
#include "ogpsa/backend/host_memory.hpp"
#include "ogpsa/tensor_view.hpp"

namespace ogpsa::detail {

template <class T>
using Dense = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;

template <class T>
MatrixView<T> view_of(Dense<T>& m) {
  return {m.data(), m.rows(), m.cols()};
}
template <class T>
MatrixView<const T> view_of(const Dense<T>& m) {
  return {m.data(), m.rows(), m.cols()};
}

enum class Transpose { no, yes };

/// c <- c + alpha op(a) op(b); c in the type of the operands or in double. Sums may be long (see gemm_kernel.hpp).
template <class T, class S>
void gemm(double alpha, MatrixView<const T> a, Transpose transpose_a, MatrixView<const T> b, Transpose transpose_b,
          MatrixView<S> c) {
  if (a.empty() || b.empty()) return;
  const auto operand = [](MatrixView<const T> m, Transpose transpose) -> GemmOperand<T> {
    if (transpose == Transpose::yes) return {m.data, m.stride, 1};
    return {m.data, 1, m.stride};
  };
  const Index k = transpose_a == Transpose::yes ? a.rows : a.cols;
  GemmTask<T> task = {.m = c.rows,
                      .n = c.cols,
                      .k = k,
                      .alpha = alpha,
                      .a = operand(a, transpose_a),
                      .b = operand(b, transpose_b),
                      .c = nullptr,
                      .wide_c = nullptr,
                      .stride = c.stride,
                      .packed_a = nullptr,
                      .packed_b = nullptr};
  if constexpr (std::is_same_v<S, T>) {
    task.c = c.data;
  } else {
    task.wide_c = c.data;
  }
  const HostBuffer<T> packed_a(GemmKernel<T>::packed_a_size(task)), packed_b(GemmKernel<T>::packed_b_size(task));
  task.packed_a = packed_a.data();
  task.packed_b = packed_b.data();
  run_best<GemmKernel<T>>(static_cast<const GemmTask<T>*>(&task));
}

/// Lower triangle of c <- c + a a^T (or a^T a), in columns of blocks.
template <class T>
void add_outer_lower(MatrixView<const T> a, bool a_first, MatrixView<T> c) {
  constexpr Index width = GemmKernel<T>::height;
  for (Index j = 0; j < c.cols; j += width) {
    const Index count = std::min(width, c.cols - j);
    const auto block = c.columns(j, count).row_range(j, c.rows - j);
    if (a_first) {
      gemm<T>(1, a.row_range(j, c.rows - j), Transpose::no, a.row_range(j, count), Transpose::yes, block);
    } else {
      gemm<T>(1, a.columns(j, c.rows - j), Transpose::yes, a.columns(j, count), Transpose::no, block);
    }
  }
}

}  // namespace ogpsa::detail
