#pragma once

#include <Eigen/Core>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/kernels.hpp"
#include "ogpsa/backend/tall_matrix.hpp"

/// \file
/// Projection of many tensors at once on the host: one parallel region over the segments of all of them. Tensors are
/// read and written a panel at a time in their own storage type; nothing of a block is copied as a whole.

namespace ogpsa::detail {

/// One segment of one piece: elements of a vector, or columns or rows of a matrix.
struct PieceTask {
  std::size_t piece;
  Index begin;
  Index end;
};

template <class T>
std::vector<PieceTask> make_tasks(std::span<const ProjectionPiece<T>> pieces) {
  std::vector<PieceTask> tasks;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const auto& piece = pieces[p];
    const bool by_rows = piece.slow > 1 && piece.left.cols == 0;
    const Index across = by_rows ? piece.slow : piece.fast;
    const Segments segments = piece.slow == 1 ? row_segments(piece.fast)
                                              : Segments(by_rows ? piece.fast : piece.slow, kLanes,
                                                         16 * kGranule / std::max<Index>(across, 1), 16);
    for (Index s = 0; s < segments.count; ++s) tasks.push_back({p, segments.begin(s), segments.end(s)});
  }
  return tasks;
}

/// Runs f(task index, task, typed data pointer) for all tasks in one parallel region.
template <class T, class F>
void run_tasks(std::span<const ProjectionPiece<T>> pieces, const std::vector<PieceTask>& tasks, F&& f) {
  parallel_for(static_cast<Index>(tasks.size()), [&](Index t) {
    const auto& task = tasks[static_cast<std::size_t>(t)];
    const auto& tensor = pieces[task.piece].tensor;
    visit_dtype(tensor.dtype,
                [&](auto* tag) { f(static_cast<std::size_t>(t), task, static_cast<decltype(tag)>(tensor.data)); });
  });
}

/// Rows [row, row + rows) and columns [col, col + cols) of a piece as a dense panel, and back.
template <class T, class S>
void load_panel(const ProjectionPiece<T>& piece, const S* data, Index row, Index col,
                Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>& panel) {
  for (Index j = 0; j < panel.cols(); ++j) {
    convert(data + (col + j) * piece.fast + row, panel.col(j).data(), panel.rows());
  }
}
template <class T, class S>
void store_panel(const ProjectionPiece<T>& piece, const Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>& panel,
                 Index row, Index col, S* data) {
  for (Index j = 0; j < panel.cols(); ++j) {
    convert(panel.col(j).data(), data + (col + j) * piece.fast + row, panel.rows());
  }
}

/// Columns of a panel of a matrix with `rows` rows, at most `most`.
inline Index panel_width(Index rows, Index most) {
  return std::min(most, std::clamp<Index>(65536 / std::max<Index>(rows, 1), kLanes, 256));
}

/// Adds the coefficients of elements [begin, end) of a vector.
template <class T, class S>
void add_vector_coefficients(const ProjectionPiece<T>& piece, const S* data, Index begin, Index end,
                             PieceCoefficients& sum) {
  alignas(64) T buffer[kGranule];
  for (Index i = begin; i < end; i += kGranule) {
    const Index n = std::min(kGranule, end - i);
    const T* x = load(data, i, n, buffer);
    for (Index k = 0; k < piece.left.cols; ++k) {
      sum.inner(k, 0) += static_cast<double>(dot(piece.left.data + k * piece.left.stride + i, x, n));
    }
    sum.squared_norm += squared_norm(x, n);
  }
}

/// Adds left^T X right over columns [begin, end) of a matrix.
template <class T, class S>
void add_matrix_coefficients(const ProjectionPiece<T>& piece, const S* data, Index begin, Index end,
                             PieceCoefficients& sum) {
  const auto left = as_eigen(piece.left);
  const auto right = as_eigen(piece.right);
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic> panel, inner, product;
  const Index width = panel_width(piece.fast, end - begin);
  for (Index j = begin; j < end; j += width) {
    panel.resize(piece.fast, std::min(width, end - j));
    load_panel(piece, data, 0, j, panel);
    inner.noalias() = left.transpose() * panel;
    product.noalias() = inner * right.middleRows(j, panel.cols());
    sum.inner += product.template cast<double>();
    sum.squared_norm += squared_norm(panel.data(), panel.size());
  }
}

/// Coefficients and norms of pieces that share theirs (see ProjectionPiece), each summed in the order of its segments.
template <class T>
void coefficients(std::span<const ProjectionPiece<T>> pieces, std::vector<PieceCoefficients>& out) {
  const auto zero = [](const ProjectionPiece<T>& p) {
    return PieceCoefficients{Eigen::MatrixXd::Zero(p.left.cols, p.slow == 1 ? 1 : p.right.cols), 0};
  };
  out.clear();
  for (const auto& piece : pieces) out.push_back(zero(piece));
  const auto tasks = make_tasks(pieces);
  std::vector<PieceCoefficients> parts(tasks.size());
  run_tasks(pieces, tasks, [&](std::size_t t, const PieceTask& task, const auto* data) {
    const auto& piece = pieces[task.piece];
    parts[t] = zero(piece);
    if (piece.slow == 1) {
      add_vector_coefficients(piece, data, task.begin, task.end, parts[t]);
    } else {
      add_matrix_coefficients(piece, data, task.begin, task.end, parts[t]);
    }
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    out[tasks[t].piece].inner += parts[t].inner;
    out[tasks[t].piece].squared_norm += parts[t].squared_norm;
  }
}

/// X <- keep X - left remove on elements [begin, end) of a vector; returns the squared norm of the result.
template <class T, class S>
double change_vector(const ProjectionPiece<T>& piece, const PieceChange& change, S* data, Index begin, Index end) {
  alignas(64) T buffer[kGranule];
  double after = 0;
  const T keep = static_cast<T>(change.keep);
  for (Index i = begin; i < end; i += kGranule) {
    const Index n = std::min(kGranule, end - i);
    convert(data + i, buffer, n);
    if (keep != T(1)) {
      for (Index j = 0; j < n; ++j) buffer[j] *= keep;
    }
    for (Index k = 0; k < piece.left.cols; ++k) {
      subtract_scaled(buffer, static_cast<T>(change.remove(k, 0)), piece.left.data + k * piece.left.stride + i, n);
    }
    after += squared_norm(buffer, n);
    convert(buffer, data + i, n);
  }
  return after;
}

/// X <- keep X - left remove right^T on columns [begin, end) of a matrix; returns the squared norm of the result.
template <class T, class S>
double change_matrix(const ProjectionPiece<T>& piece, const PieceChange& change, S* data, Index begin, Index end) {
  const auto left = as_eigen(piece.left);
  const auto right = as_eigen(piece.right);
  const auto remove = change.remove.cast<T>().eval();
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic> panel, inner;
  double after = 0;
  const Index width = panel_width(piece.fast, end - begin);
  for (Index j = begin; j < end; j += width) {
    panel.resize(piece.fast, std::min(width, end - j));
    load_panel(piece, data, 0, j, panel);
    if (change.keep != 1) panel *= static_cast<T>(change.keep);
    inner.noalias() = remove * right.middleRows(j, panel.cols()).transpose();
    panel.noalias() -= left * inner;
    after += squared_norm(panel.data(), panel.size());
    store_panel(piece, panel, 0, j, data);
  }
  return after;
}

/// Applies `changes` to pieces that share coefficients. Fills `after` only: the rest is known to the caller.
template <class T>
void change(std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
            std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  const auto tasks = make_tasks(pieces);
  std::vector<double> parts(tasks.size());
  run_tasks(pieces, tasks, [&](std::size_t t, const PieceTask& task, auto* data) {
    const auto& piece = pieces[task.piece];
    parts[t] = piece.slow == 1 ? change_vector(piece, changes[task.piece], data, task.begin, task.end)
                               : change_matrix(piece, changes[task.piece], data, task.begin, task.end);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) norms[tasks[t].piece].after += parts[t];
}

/// Projects one side of columns (left basis) or rows (right basis) [begin, end) of a matrix.
template <class T, class S>
PieceNorms change_one_side(const ProjectionPiece<T>& piece, const SideChange& change, S* data, Index begin, Index end) {
  const bool on_left = piece.left.cols > 0;
  const auto basis = as_eigen(on_left ? piece.left : piece.right);
  const auto remove = change.remove.cast<T>().eval();
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic> panel, inner;
  PieceNorms norms;
  const Index width = panel_width(on_left ? piece.fast : piece.slow, end - begin);
  for (Index j = begin; j < end; j += width) {
    const Index count = std::min(width, end - j);
    on_left ? panel.resize(piece.fast, count) : panel.resize(count, piece.slow);
    load_panel(piece, data, on_left ? 0 : j, on_left ? j : 0, panel);
    norms.before += squared_norm(panel.data(), panel.size());
    if (on_left) {
      inner.noalias() = basis.transpose() * panel;
    } else {
      inner.noalias() = panel * basis;
    }
    norms.inside += squared_norm(inner.data(), inner.size());
    if (change.keep != 1) panel *= static_cast<T>(change.keep);
    if (on_left) {
      inner.array().colwise() *= remove.array();
      panel.noalias() -= basis * inner;
    } else {
      inner.array().rowwise() *= remove.transpose().array();
      panel.noalias() -= inner * basis.transpose();
    }
    norms.after += squared_norm(panel.data(), panel.size());
    store_panel(piece, panel, on_left ? 0 : j, on_left ? j : 0, data);
  }
  return norms;
}

template <class T>
void change_side(std::span<const ProjectionPiece<T>> pieces, std::span<const SideChange> changes,
                 std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  const auto tasks = make_tasks(pieces);
  std::vector<PieceNorms> parts(tasks.size());
  run_tasks(pieces, tasks, [&](std::size_t t, const PieceTask& task, auto* data) {
    parts[t] = change_one_side(pieces[task.piece], changes[task.piece], data, task.begin, task.end);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    auto& sum = norms[tasks[t].piece];
    sum.before += parts[t].before;
    sum.after += parts[t].after;
    sum.inside += parts[t].inside;
  }
}

}  // namespace ogpsa::detail
