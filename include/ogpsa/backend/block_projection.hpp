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

/// False when all pieces together are so small that waking the threads takes longer than the work.
template <class T>
bool worth_threads(std::span<const ProjectionPiece<T>> pieces) {
  Index work = 0;
  for (const auto& p : pieces) work += p.fast * p.slow * (1 + p.left.cols + p.right.cols);
  return work >= kWorthThreads;
}

/// Rows [row, row + rows) and columns [col, col + cols) of a tensor of `fast` rows in memory as a dense panel, and
/// back.
template <class T>
void load_panel(ConstTensorView tensor, Index fast, Index row, Index col, Dense<T>& panel) {
  for (Index j = 0; j < panel.cols(); ++j) {
    T* to = panel.col(j).data();
    const T* from = load(tensor, (col + j) * fast + row, panel.rows(), to);
    if (from != to) std::copy(from, from + panel.rows(), to);
  }
}
template <class T>
void store_panel(const Dense<T>& panel, TensorView tensor, Index fast, Index row, Index col) {
  for (Index j = 0; j < panel.cols(); ++j) {
    store(panel.col(j).data(), panel.rows(), tensor, (col + j) * fast + row);
  }
}

/// Columns of a panel of a matrix with `rows` rows, at most `most`.
inline Index panel_width(Index rows, Index most) {
  return std::min(most, std::clamp<Index>(65536 / std::max<Index>(rows, 1), kLanes, 256));
}

/// Coefficients of elements [begin, end) of a vector.
template <class T>
void add_vector_coefficients(const ProjectionPiece<T>& piece, Index begin, Index end, PieceCoefficients& sum) {
  alignas(64) T buffer[kGranule];
  CompensatedSum inner(piece.left.cols, 1);
  Eigen::MatrixXd products(piece.left.cols, 1);
  for (Index i = begin; i < end; i += kGranule) {
    const Index n = std::min(kGranule, end - i);
    const T* x = load<T>(piece.tensor, i, n, buffer);
    for (Index k = 0; k < piece.left.cols; ++k) {
      products(k, 0) = dot(piece.left.data + k * piece.left.stride + i, x, n);
    }
    inner.add(products);
    sum.squared_norm += squared_norm(x, n);
  }
  sum.inner = inner.value();
}

/// Adds left^T X right over columns [begin, end) of a matrix.
template <class T>
void add_matrix_coefficients(const ProjectionPiece<T>& piece, Index begin, Index end, PieceCoefficients& sum) {
  Dense<T> panel, inner;
  const Index width = panel_width(piece.fast, end - begin);
  for (Index j = begin; j < end; j += width) {
    panel.resize(piece.fast, std::min(width, end - j));
    load_panel(piece.tensor, piece.fast, 0, j, panel);
    inner = long_product<T>(piece.left, Transpose::yes, view_of(panel)).template cast<T>();
    sum.inner += long_product<T>(view_of(inner), Transpose::no, piece.right.row_range(j, panel.cols()));
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
  parallel_for(static_cast<Index>(tasks.size()), worth_threads(pieces), [&](Index i) {
    const auto t = static_cast<std::size_t>(i);
    const auto& piece = pieces[tasks[t].piece];
    parts[t] = zero(piece);
    if (piece.slow == 1) {
      add_vector_coefficients(piece, tasks[t].begin, tasks[t].end, parts[t]);
    } else {
      add_matrix_coefficients(piece, tasks[t].begin, tasks[t].end, parts[t]);
    }
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    out[tasks[t].piece].inner += parts[t].inner;
    out[tasks[t].piece].squared_norm += parts[t].squared_norm;
  }
}

/// Then a tensor is not written, so that it keeps its bits also where it is wider than the arithmetic.
inline bool nothing_to_do(const PieceChange& change) { return change.keep == 1 && change.remove.isZero(0); }

/// X <- keep X - left remove on elements [begin, end) of a vector; returns the squared norm of the result.
template <class T>
double change_vector(const ProjectionPiece<T>& piece, const PieceChange& change, Index begin, Index end) {
  alignas(64) T buffer[kGranule];
  double after = 0;
  const T keep = static_cast<T>(change.keep);
  for (Index i = begin; i < end; i += kGranule) {
    const Index n = std::min(kGranule, end - i);
    const T* x = load<T>(piece.tensor, i, n, buffer);
    if (nothing_to_do(change)) {
      after += squared_norm(x, n);
      continue;
    }
    if (x != buffer) std::copy(x, x + n, buffer);
    if (keep != T(1)) {
      for (Index j = 0; j < n; ++j) buffer[j] *= keep;
    }
    for (Index k = 0; k < piece.left.cols; ++k) {
      subtract_scaled(buffer, static_cast<T>(change.remove(k, 0)), piece.left.data + k * piece.left.stride + i, n);
    }
    after += squared_norm(buffer, n);
    store(buffer, n, piece.tensor, i);
  }
  return after;
}

/// X <- keep X - left remove right^T on columns [begin, end) of a matrix; returns the squared norm of the result.
template <class T>
double change_matrix(const ProjectionPiece<T>& piece, const PieceChange& change, Index begin, Index end) {
  const Dense<T> remove = change.remove.cast<T>();
  Dense<T> panel, inner;
  double after = 0;
  const Index width = panel_width(piece.fast, end - begin);
  for (Index j = begin; j < end; j += width) {
    panel.resize(piece.fast, std::min(width, end - j));
    load_panel(piece.tensor, piece.fast, 0, j, panel);
    if (nothing_to_do(change)) {
      after += squared_norm(panel.data(), panel.size());
      continue;
    }
    if (change.keep != 1) panel *= static_cast<T>(change.keep);
    inner.setZero(piece.left.cols, panel.cols());
    gemm<T>(1, view_of(remove), Transpose::no, piece.right.row_range(j, panel.cols()), Transpose::yes, view_of(inner));
    gemm<T>(-1, piece.left, Transpose::no, view_of(inner), Transpose::no, view_of(panel));
    after += squared_norm(panel.data(), panel.size());
    store_panel(panel, piece.tensor, piece.fast, 0, j);
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
  parallel_for(static_cast<Index>(tasks.size()), worth_threads(pieces), [&](Index i) {
    const auto t = static_cast<std::size_t>(i);
    const auto& [p, begin, end] = tasks[t];
    parts[t] = pieces[p].slow == 1 ? change_vector(pieces[p], changes[p], begin, end)
                                   : change_matrix(pieces[p], changes[p], begin, end);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) norms[tasks[t].piece].after += parts[t];
}

/// Projects one side of columns (left basis) or rows (right basis) [begin, end) of a matrix.
template <class T>
PieceNorms change_one_side(const ProjectionPiece<T>& piece, const SideChange& change, Index begin, Index end) {
  const bool on_left = piece.left.cols > 0;
  const MatrixView<const T> basis = on_left ? piece.left : piece.right;
  const auto remove = change.remove.cast<T>().eval();
  Dense<T> panel, inner;
  PieceNorms norms;
  const Index width = panel_width(on_left ? piece.fast : piece.slow, end - begin);
  for (Index j = begin; j < end; j += width) {
    const Index count = std::min(width, end - j);
    on_left ? panel.resize(piece.fast, count) : panel.resize(count, piece.slow);
    load_panel(piece.tensor, piece.fast, on_left ? 0 : j, on_left ? j : 0, panel);
    norms.before += squared_norm(panel.data(), panel.size());
    inner = (on_left ? long_product<T>(basis, Transpose::yes, view_of(panel))
                     : long_product<T>(view_of(panel), Transpose::no, basis))
                .template cast<T>();
    norms.inside += squared_norm(inner.data(), inner.size());
    if (change.keep != 1) panel *= static_cast<T>(change.keep);
    if (on_left) {
      inner.array().colwise() *= remove.array();
      gemm<T>(-1, basis, Transpose::no, view_of(inner), Transpose::no, view_of(panel));
    } else {
      inner.array().rowwise() *= remove.transpose().array();
      gemm<T>(-1, view_of(inner), Transpose::no, basis, Transpose::yes, view_of(panel));
    }
    norms.after += squared_norm(panel.data(), panel.size());
    store_panel(panel, piece.tensor, piece.fast, on_left ? 0 : j, on_left ? j : 0);
  }
  return norms;
}

template <class T>
void change_side(std::span<const ProjectionPiece<T>> pieces, std::span<const SideChange> changes,
                 std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  const auto tasks = make_tasks(pieces);
  std::vector<PieceNorms> parts(tasks.size());
  parallel_for(static_cast<Index>(tasks.size()), worth_threads(pieces), [&](Index i) {
    const auto& [p, begin, end] = tasks[static_cast<std::size_t>(i)];
    parts[static_cast<std::size_t>(i)] = change_one_side(pieces[p], changes[p], begin, end);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    auto& sum = norms[tasks[t].piece];
    sum.before += parts[t].before;
    sum.after += parts[t].after;
    sum.inside += parts[t].inside;
  }
}

}  // namespace ogpsa::detail
