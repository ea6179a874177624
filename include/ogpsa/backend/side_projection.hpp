#pragma once

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/backend/pieces.hpp"

/// \file
/// Projection of one side of many matrices at once on the host, in one pass: each column (or row) stands for itself.

namespace ogpsa::detail {

inline void add(PieceNorms& sum, const PieceNorms& part) {
  sum.before += part.before;
  sum.inside += part.inside;
  sum.after += part.after;
}

/// Projects one side of a panel of columns (left basis) or rows (right basis) of a matrix.
template <class T>
PieceNorms change_panel(const ProjectionPiece<T>& piece, const SideChange& change, MatrixView<T> x) {
  const bool on_left = piece.left.cols > 0;
  const MatrixView<const T> basis = on_left ? piece.left.matrix() : piece.right;
  const MatrixView<const T> panel = x;
  const auto squares = [&] {
    double sum = 0;
    for (Index j = 0; j < x.cols; ++j) sum += squared_norm(x.data + j * x.stride, x.rows);
    return sum;
  };
  PieceNorms norms;
  norms.before = squares();
  const Eigen::MatrixXd c = on_left ? product<T>(basis, Transpose::yes, panel)  // coefficients
                                    : product<T>(panel, Transpose::no, basis);
  norms.inside = squared_norm(values(c));
  Dense<T> remove(c.rows(), c.cols());
  for (Index j = 0; j < c.cols(); ++j) {
    for (Index i = 0; i < c.rows(); ++i)
      at(remove, i, j) = static_cast<T>(at(c, i, j) * at(change.remove, on_left ? i : j));
  }
  scale_panel(x, change.keep);
  if (on_left) {
    gemm<T>(-1, basis, Transpose::no, view_of(std::as_const(remove)), Transpose::no, x);
  } else {
    gemm<T>(-1, view_of(std::as_const(remove)), Transpose::no, basis, Transpose::yes, x);
  }
  norms.after = squares();
  return norms;
}

/// The same for columns or rows [begin, end), in place where the tensor is stored in `T`.
template <class T>
PieceNorms change_one_side(const ProjectionPiece<T>& piece, const SideChange& change, Index begin, Index end) {
  const bool on_left = piece.left.cols > 0;
  Dense<T> panel;
  PieceNorms norms;
  for (Index j = begin; j < end; j += kPanel) {
    const Index count = std::min(kPanel, end - j);
    const Index row = on_left ? 0 : j, col = on_left ? j : 0;
    const Index rows = on_left ? piece.fast : count, cols = on_left ? count : piece.slow;
    PieceNorms part;
    if (in_place<T>(piece)) {
      T* const first = static_cast<T*>(piece.tensor.data) + col * piece.fast + row;
      part = change_panel(piece, change, MatrixView<T>(first, rows, cols, piece.fast));
    } else {
      panel.resize(rows, cols);
      load_panel(piece, piece.fast, row, col, panel);
      part = change_panel(piece, change, view_of(panel));
      store_panel(panel, piece, piece.fast, row, col);
    }
    add(norms, part);
  }
  return norms;
}

template <class T>
void change_side(std::span<const ProjectionPiece<T>> pieces, std::span<const SideChange> changes,
                 std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  const auto tasks = make_tasks(pieces);
  const auto parts = on_tasks(pieces, tasks, [&](const PieceTask& task) {
    return change_one_side(pieces[task.piece], changes[task.piece], task.begin, task.end);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) add(norms[tasks[t].piece], parts[t]);
}

}  // namespace ogpsa::detail
