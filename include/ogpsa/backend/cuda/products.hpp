#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/backend/cuda/narrow_products.hpp"
#include "ogpsa/backend/gemm.hpp"

/// \file
/// Products by cuBLAS, and which of tall matrices go to our own kernels. Gram matrices and what is made from them are
/// computed in double, a panel of rows at a time (mixed-precision CholeskyQR; Yamazaki, Tomov and Dongarra 2015).

namespace ogpsa::detail::cuda {

/// Elements of a panel; it is copied to the arithmetic type where the memory has another.
inline constexpr Index kPanelElements = Index{1} << 22;

template <class T>
struct Factor {
  const T* data;
  Index stride;        // between columns
  Index batch_stride;  // between the matrices of a batch
  Transpose transpose = Transpose::no;
};

/// c <- alpha op(a) op(b) + beta c for a batch of matrices; op(a) is m x k, op(b) k x n, c m x n.
template <class T>
void gemm(cublasHandle_t handle, Index m, Index n, Index k, T alpha, Factor<T> a, Factor<T> b, T beta, T* c,
          Index stride, Index batch_stride, Index batch) {
  if (m == 0 || n == 0 || batch == 0) return;
  constexpr auto type = sizeof(T) == 4 ? CUDA_R_32F : CUDA_R_64F;
  constexpr auto compute = sizeof(T) == 4 ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F;
  const auto op = [](Transpose t) { return t == Transpose::yes ? CUBLAS_OP_T : CUBLAS_OP_N; };
  check(cublasGemmStridedBatchedEx_64(handle, op(a.transpose), op(b.transpose), m, n, k, &alpha, a.data, type, a.stride,
                                      a.batch_stride, b.data, type, b.stride, b.batch_stride, &beta, c, type, stride,
                                      batch_stride, batch, compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx_64", {{"m", m}, {"n", n}, {"k", k}, {"batch", batch}});
}

/// Rows of a panel of `cols` columns, a multiple of `part`.
inline Index panel_rows(Index rows, Index cols, Index part) {
  const Index wanted = std::max<Index>(kPanelElements / std::max<Index>(cols, 1) / part, 1) * part;
  return std::min(wanted, std::max<Index>(rows, 1));
}

/// Rows of a view in double: in place, or converted into a slot.
template <class T>
MatrixView<const double> in_double(const Session& session, Slot slot, MatrixView<const T> rows) {
  if constexpr (std::is_same_v<T, double>) return rows;
  double* memory = session->scratch<double>(slot, rows.rows * rows.cols);
  const MatrixView<double> panel(memory, rows.rows, rows.cols);
  copy(session, strided(rows), strided(panel), rows.rows, rows.cols);
  return panel;
}

/// a^T b, to device memory. Short sums by cuBLAS, added by `gather`, so that the error does not grow with the number of
/// rows.
template <class T>
void gram(const Session& session, MatrixView<const T> a, MatrixView<const T> b, double* sum) {
  const CublasSession cublas(*session);
  const Index part = sizeof(T) == 8 ? 64 : 256;
  const Index size = a.cols * b.cols;
  const Index most = panel_rows(a.rows, a.cols + b.cols, part);
  const Index panels = (a.rows + most - 1) / most;
  const bool same = a.data == b.data && a.cols == b.cols && a.stride == b.stride;
  double* partial = session->scratch<double>(kPartial, (most + part - 1) / part * size);
  double* results = session->scratch<double>(kProduct, panels * size);
  for (Index p = 0; p < panels; ++p) {
    const Index first = p * most, count = std::min(most, a.rows - first);
    const auto pa = in_double(session, kPanel, a.row_range(first, count));
    const auto pb = same ? pa : in_double(session, kOther, b.row_range(first, count));
    const Index full = count / part, rest = count % part;
    const Factor<double> left{pa.data, pa.stride, part, Transpose::yes}, right{pb.data, pb.stride, part};
    gemm<double>(cublas, a.cols, b.cols, part, 1, left, right, 0, partial, a.cols, size, full);
    if (rest > 0) {
      const Factor<double> left_rest{pa.data + full * part, pa.stride, 0, Transpose::yes};
      const Factor<double> right_rest{pb.data + full * part, pb.stride, 0};
      gemm<double>(cublas, a.cols, b.cols, rest, 1, left_rest, right_rest, 0, partial + full * size, a.cols, size, 1);
    }
    gather(session, Combination::sum, {{0, full + (rest > 0), size, 0}}, partial, results + p * size);
  }
  gather(session, Combination::sum, {{0, panels, size, 0}}, results, sum);
}

/// a^T b of each problem, column by column, one after the other. The host waits once for all of them.
template <class T>
std::vector<double> grams(const Session& session, std::span<const GramProblem<T>> problems) {
  NarrowGrams<T> narrow;
  std::vector<std::pair<const GramProblem<T>*, Index>> others;
  Index size = 0, of_others = 0;
  for (const auto& problem : problems) {
    const Index own = problem.a.cols * problem.b.cols;
    if (own > 0 && problem.a.rows > 0 && NarrowGrams<T>::takes(problem)) {
      narrow.add(problem, size);
    } else if (own > 0 && problem.a.rows > 0) {
      others.push_back({&problem, size});
      of_others += own;
    }
    size += own;
  }
  double* results = session->scratch<double>(kResults, std::max<Index>(narrow.results() + of_others, 1));
  narrow.enqueue(session, results);
  Index at = narrow.results();
  for (const auto& [problem, to] : others) {
    gram(session, problem->a, problem->b, results + at);
    at += problem->a.cols * problem->b.cols;
  }
  const auto host = session->fetch(results, at);
  std::vector<double> sums(static_cast<std::size_t>(size));
  narrow.read(host.data(), sums);
  const double* from = host.data() + narrow.results();
  for (const auto& [problem, to] : others) {
    const Index own = problem->a.cols * problem->b.cols;
    std::copy_n(from, own, sums.data() + to);
    from += own;
  }
  return sums;
}

/// The matrices that `grams` gave one after the other.
template <class T>
std::vector<Eigen::MatrixXd> cut(const std::vector<double>& sums, std::span<const GramProblem<T>> problems) {
  std::vector<Eigen::MatrixXd> matrices;
  const double* from = sums.data();
  for (const auto& [a, b] : problems) {
    matrices.push_back(Eigen::Map<const Eigen::MatrixXd>(from, a.cols, b.cols));
    from += a.cols * b.cols;
  }
  return matrices;
}

/// to <- a x, where `to` may be the first columns of a
template <class T>
void multiply(const Session& session, MatrixView<const T> a, const Eigen::MatrixXd& x, MatrixView<T> to) {
  const CublasSession cublas(*session);
  const double* factor = session->upload(kFactors, x.data(), x.size());
  const Index most = panel_rows(a.rows, a.cols + x.cols(), kThreads);
  double* product = session->scratch<double>(kProduct, most * x.cols());
  for (Index first = 0; first < a.rows; first += most) {
    const Index count = std::min(most, a.rows - first);
    const auto panel = in_double(session, kPanel, a.row_range(first, count));
    gemm<double>(cublas, count, x.cols(), a.cols, 1, {panel.data, panel.stride, 0}, {factor, x.rows(), 0}, 0, product,
                 count, 0, 1);
    copy(session, strided(MatrixView<double>(product, count, x.cols())), strided(to.row_range(first, count)), count,
         x.cols());
  }
}

/// Each product.
template <class T>
void multiply(const Session& session, std::span<const ProductProblem<T>> problems) {
  NarrowProducts<T> narrow;
  for (const auto& problem : problems) {
    if (problem.a.empty() || problem.to.empty()) continue;
    if (NarrowProducts<T>::takes(problem)) {
      narrow.add(problem);
    } else {
      multiply(session, problem.a, problem.x, problem.to);
    }
  }
  narrow.enqueue(session);
}

/// a <- a - q c
template <class T>
void subtract_product(const Session& session, MatrixView<T> a, MatrixView<const T> q, const Eigen::MatrixXd& c) {
  if (a.empty() || q.cols == 0) return;
  const CublasSession cublas(*session);
  const double* factor = session->upload(kFactors, c.data(), c.size());
  const Index most = panel_rows(a.rows, a.cols + q.cols, kThreads);
  double* difference = session->scratch<double>(kProduct, most * a.cols);
  for (Index first = 0; first < a.rows; first += most) {
    const Index count = std::min(most, a.rows - first);
    const MatrixView<T> rows = a.row_range(first, count);
    const MatrixView<double> sum(difference, count, a.cols);
    copy(session, strided(rows), strided(sum), count, a.cols);
    const auto panel = in_double(session, kPanel, q.row_range(first, count));
    gemm<double>(cublas, count, a.cols, q.cols, -1, {panel.data, panel.stride, 0}, {factor, c.rows(), 0}, 1, difference,
                 count, 0, 1);
    copy(session, strided(sum), strided(rows), count, a.cols);
  }
}

/// sum <- sum + y y^T (or y^T y when transposed), in the lower triangle.
template <class T>
void add_square(cublasHandle_t cublas, MatrixView<T> sum, MatrixView<const T> y, Transpose transpose) {
  const bool transposed = transpose == Transpose::yes;
  const T one = 1;
  const Index n = sum.rows, k = transposed ? y.rows : y.cols;
  const auto op = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
  if constexpr (sizeof(T) == 4) {
    check(cublasSsyrk_64(cublas, CUBLAS_FILL_MODE_LOWER, op, n, k, &one, y.data, y.stride, &one, sum.data, sum.stride),
          "cublasSsyrk_64", {{"n", n}, {"k", k}});
  } else {
    check(cublasDsyrk_64(cublas, CUBLAS_FILL_MODE_LOWER, op, n, k, &one, y.data, y.stride, &one, sum.data, sum.stride),
          "cublasDsyrk_64", {{"n", n}, {"k", k}});
  }
}

}  // namespace ogpsa::detail::cuda
