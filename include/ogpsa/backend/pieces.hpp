#pragma once

#include <algorithm>
#include <span>
#include <type_traits>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/convert.hpp"
#include "ogpsa/backend/reductions.hpp"
#include "ogpsa/backend/tall_matrix.hpp"

/// \file
/// Tensors that are projected together, cut into tasks of one parallel region, and read and written a panel at a time
/// in their own storage type; nothing of a block is copied as a whole.

namespace ogpsa::detail {

/// Columns or rows of a matrix that are projected at a time: enough to make up for packing the basis.
inline constexpr Index kPanel = 384;

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
    const Segments segments = piece.slow == 1
                                  ? row_segments(piece.fast)
                                  : Segments(by_rows ? piece.fast : piece.slow, kLanes,
                                             std::max<Index>(kPanel, 16 * kGranule / std::max<Index>(across, 1)), 16);
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

/// f(task) of each task, side by side; the results stand in the order of the tasks, also where the last is taken first.
template <class T, class F>
auto on_tasks(std::span<const ProjectionPiece<T>> pieces, const std::vector<PieceTask>& tasks, F&& f,
              bool backwards = false) {
  std::vector<decltype(f(tasks[0]))> results(tasks.size());
  parallel_for(static_cast<Index>(tasks.size()), worth_threads(pieces), [&](Index i) {
    const auto at = static_cast<std::size_t>(i), t = backwards ? tasks.size() - 1 - at : at;
    results[t] = f(tasks[t]);
  });
  return results;
}

/// Elements [begin, begin + n) of X, as `load` has those of a tensor, and back.
template <class T>
const T* load(const ProjectionPiece<T>& piece, Index begin, Index n, T* buffer) {
  if (piece.origin.data == nullptr) return load<T>(piece.tensor, begin, n, buffer);
  load_difference(piece.tensor, piece.origin, begin, n, buffer);
  return buffer;
}
template <class T>
void store(const T* values, Index n, const ProjectionPiece<T>& piece, Index begin) {
  if (piece.origin.data == nullptr) return store(values, n, piece.tensor, begin);
  move(values, n, piece.tensor, piece.origin, begin);
}
/// Whether X is the tensor itself, stored as S.
template <class S, class T>
bool in_place(const ProjectionPiece<T>& piece) {
  return piece.tensor.dtype == dtype_of<S>() && piece.origin.data == nullptr;
}

/// Calls f with elements [begin, begin + n) of X in their own memory, also as bfloat16 if f may have them rounded, or
/// as `load` has them in `buffer`; returns whether they are in the buffer.
template <class T, class F>
bool visit_elements(const ProjectionPiece<T>& piece, Index begin, Index n, bool rounded, T* buffer, F&& f) {
  if constexpr (std::is_same_v<T, float>) {
    if (rounded && in_place<bfloat16>(piece)) {
      f(static_cast<bfloat16*>(piece.tensor.data) + begin);
      return false;
    }
  }
  if (in_place<T>(piece)) {
    f(static_cast<T*>(piece.tensor.data) + begin);
    return false;
  }
  load<T>(piece, begin, n, buffer);
  f(buffer);
  return true;
}

/// Rows [row, row + rows) and columns [col, col + cols) of a tensor (or the X of a piece) of `fast` rows in memory as
/// a dense panel, and back.
template <class T, class From>
void load_panel(const From& source, Index fast, Index row, Index col, Dense<T>& panel) {
  for (Index j = 0; j < panel.cols(); ++j) {
    T* to = column(panel, j).data();
    const T* from = load<T>(source, (col + j) * fast + row, panel.rows(), to);
    if (from != to) std::copy(from, from + panel.rows(), to);
  }
}
template <class T>
void store_panel(const Dense<T>& panel, const ProjectionPiece<T>& piece, Index fast, Index row, Index col) {
  for (Index j = 0; j < panel.cols(); ++j) {
    store(column(panel, j).data(), panel.rows(), piece, (col + j) * fast + row);
  }
}

/// op(a) b in double.
template <class T>
Eigen::MatrixXd product(MatrixView<const T> a, Transpose transpose_a, MatrixView<const T> b) {
  Eigen::MatrixXd result = zeros(transpose_a == Transpose::yes ? a.cols : a.rows, b.cols);
  gemm<T>(1, a, transpose_a, b, Transpose::no, view_of(result));
  return result;
}

/// Coefficients in the arithmetic type.
template <class T>
Dense<T> rounded(const Eigen::MatrixXd& m) {
  Dense<T> result(m.rows(), m.cols());
  std::transform(m.data(), m.data() + m.size(), result.data(), [](double x) { return static_cast<T>(x); });
  return result;
}

/// a <- factor a
template <class T>
void scale_panel(MatrixView<T> a, double factor) {
  if (factor == 1) return;
  for (Index j = 0; j < a.cols; ++j) {
    for (Index i = 0; i < a.rows; ++i) a.data[i + j * a.stride] *= static_cast<T>(factor);
  }
}

/// Columns of a panel of a matrix with `rows` rows, at most `most`.
inline Index panel_width(Index rows, Index most) {
  return std::min(most, std::clamp<Index>(65536 / std::max<Index>(rows, 1), kLanes, 256));
}

/// The first piece with a value of |x| >= 2^exponent, or one that is not finite, or -1.
template <class T>
Index first_piece_beyond(std::span<const ProjectionPiece<T>> pieces, int exponent) {
  const auto tasks = make_tasks(pieces);
  const auto beyond = on_tasks(pieces, tasks, [&](const PieceTask& task) {
    const auto& piece = pieces[task.piece];
    const Index across = piece.slow == 1 ? 1 : piece.left.cols == 0 ? piece.slow : piece.fast;
    const auto is_beyond = [&](ConstTensorView tensor) {
      return tensor.data != nullptr && visit_dtype(tensor.dtype, [&](auto* tag) {
               using S = std::remove_pointer_t<decltype(tag)>;
               const S* data = static_cast<const S*>(tensor.data) + task.begin * across;
               return find_beyond(data, (task.end - task.begin) * across, exponent) >= 0;
             });
    };
    return static_cast<char>(is_beyond(piece.tensor) || is_beyond(piece.origin));  // no vector<bool>: threads write
  });
  const auto found = std::find(beyond.begin(), beyond.end(), 1);
  return found == beyond.end() ? -1 : static_cast<Index>(tasks[static_cast<std::size_t>(found - beyond.begin())].piece);
}

}  // namespace ogpsa::detail
