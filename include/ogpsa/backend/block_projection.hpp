#pragma once

#include <algorithm>
#include <numeric>
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
template <class T>
bool in_place(const ProjectionPiece<T>& piece) {
  return piece.tensor.dtype == dtype_of<T>() && piece.origin.data == nullptr;
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

/// Coefficients of elements [begin, end) of a vector.
template <class T>
void add_vector_coefficients(const ProjectionPiece<T>& piece, Index begin, Index end, PieceCoefficients& sum) {
  alignas(64) T buffer[kGranule];
  const Index rank = piece.left.cols;
  CompensatedSum inner(rank, 1);
  Eigen::MatrixXd products(rank, 1);
  for (Index i = begin, n = 0; i < end; i += n) {
    n = granule(piece.left, i, end, kGranule);
    const T* x = load<T>(piece, i, n, buffer);
    double square = rank == 0 ? squared_norm(x, n) : 0.0;
    in_groups_of_columns(rank, [&](auto count, Index k) {
      double sums[count + 1] = {};
      visit_columns(piece.left, i, k, [&]<class S>(BasisColumns<T, S> q) {
        run_best<MeasureKernel<T, count, S>>(q, x, n, static_cast<double*>(sums));
      });
      for (int j = 0; j < count; ++j) at(products, k + j) = sums[j];
      square = sums[count];
    });
    inner.add(products);
    sum.squared_norm += square;
  }
  sum.inner = inner.value();
}

/// Adds left^T X right over columns [begin, end) of a matrix.
template <class T>
void add_matrix_coefficients(const ProjectionPiece<T>& piece, Index begin, Index end, PieceCoefficients& sum) {
  Dense<T> panel;
  const Index width = panel_width(piece.fast, end - begin);
  for (Index j = begin; j < end; j += width) {
    panel.resize(piece.fast, std::min(width, end - j));
    load_panel(piece, piece.fast, 0, j, panel);
    const Dense<T> inner = rounded<T>(product<T>(piece.left.matrix(), Transpose::yes, view_of(panel)));
    const Eigen::MatrixXd part = product<T>(view_of(inner), Transpose::no, piece.right.row_range(j, panel.cols()));
    add_scaled(values(sum.inner), 1, values(part));
    sum.squared_norm += squared_norm(panel.data(), panel.size());
  }
}

/// Coefficients and norms of pieces that share theirs (see ProjectionPiece), each summed in the order of its segments.
template <class T>
void coefficients(std::span<const ProjectionPiece<T>> pieces, std::vector<PieceCoefficients>& out) {
  const auto zero = [](const ProjectionPiece<T>& p) {
    return PieceCoefficients{zeros(p.left.cols, p.slow == 1 ? 1 : p.right.cols), 0};
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
    add_scaled(values(out[tasks[t].piece].inner), 1, values(parts[t].inner));
    out[tasks[t].piece].squared_norm += parts[t].squared_norm;
  }
}

/// Then a tensor is not written, so that it keeps its bits also where it is wider than the arithmetic.
inline bool nothing_to_do(const PieceChange& change) { return change.keep == 1 && all_zero(values(change.remove)); }

/// X <- keep X - left remove on elements [begin, end) of a vector; returns the squared norm of the result.
template <class T>
double change_vector(const ProjectionPiece<T>& piece, const PieceChange& change, Index begin, Index end) {
  alignas(64) T buffer[kGranule];
  const Dense<T> remove = rounded<T>(change.remove);
  const bool write = !nothing_to_do(change);
  const bool write_through = write && in_place(piece);
  double after = 0;
  for (Index i = begin, n = 0; i < end; i += n) {
    n = granule(piece.left, i, end, kGranule);
    const T* x = load<T>(piece, i, n, buffer);
    if (!write) {
      after += squared_norm(x, n);
      continue;
    }
    T* y = write_through ? static_cast<T*>(piece.tensor.data) + i : buffer;
    double square = 0;
    if (piece.left.cols == 0) {  // any column will do that is there
      const T none = 0;
      square = run_best<ChangeKernel<T, 1>>(static_cast<T>(change.keep), &none, BasisColumns<T>{x, 0}, x, y, n);
    }
    in_groups_of_columns(piece.left.cols, [&](auto count, Index k) {
      const T keep = k == 0 ? static_cast<T>(change.keep) : T(1);
      visit_columns(piece.left, i, k, [&]<class S>(BasisColumns<T, S> q) {
        square = run_best<ChangeKernel<T, count, S>>(keep, remove.data() + k, q, k == 0 ? x : y, y, n);
      });
    });
    after += square;
    if (!write_through) store<T>(buffer, n, piece, i);
  }
  return after;
}

/// X <- keep X - left remove right^T on columns [begin, end) of a matrix; returns the squared norm of the result.
template <class T>
double change_matrix(const ProjectionPiece<T>& piece, const PieceChange& change, Index begin, Index end) {
  const Dense<T> remove = rounded<T>(change.remove);
  Dense<T> panel, inner;
  double after = 0;
  const Index width = panel_width(piece.fast, end - begin);
  for (Index j = begin; j < end; j += width) {
    panel.resize(piece.fast, std::min(width, end - j));
    load_panel(piece, piece.fast, 0, j, panel);
    if (nothing_to_do(change)) {
      after += squared_norm(panel.data(), panel.size());
      continue;
    }
    scale_panel(view_of(panel), change.keep);
    inner.setZero(piece.left.cols, panel.cols());
    gemm<T>(1, view_of(std::as_const(remove)), Transpose::no, piece.right.row_range(j, panel.cols()), Transpose::yes,
            view_of(inner));
    gemm<T>(-1, piece.left.matrix(), Transpose::no, view_of(std::as_const(inner)), Transpose::no, view_of(panel));
    after += squared_norm(panel.data(), panel.size());
    store_panel(panel, piece, piece.fast, 0, j);
  }
  return after;
}

/// Applies `changes` to pieces that share coefficients. Fills `after` only: the rest is known to the caller. Goes
/// backwards: what was measured last is still in the cache.
template <class T>
void change(std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
            std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  const auto tasks = make_tasks(pieces);
  std::vector<double> parts(tasks.size());
  parallel_for(static_cast<Index>(tasks.size()), worth_threads(pieces), [&](Index i) {
    const auto t = tasks.size() - 1 - static_cast<std::size_t>(i);
    const auto& [p, begin, end] = tasks[t];
    parts[t] = pieces[p].slow == 1 ? change_vector(pieces[p], changes[p], begin, end)
                                   : change_matrix(pieces[p], changes[p], begin, end);
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) norms[tasks[t].piece].after += parts[t];
}

/// Bytes of a piece and its basis up to which one thread projects it alone. While one thread has to wait for memory,
/// another then goes on with what it has in the cache; but all that the threads have in hand has to fit the shared
/// cache, which is taken to be 32 MiB. Several for each thread are needed, so that none waits long for another at the
/// end.
inline Index largest_alone(Index bytes_of_all) {
  constexpr Index shared = Index{32} << 20, always = Index{1} << 20;
  return std::max(always, std::min(shared / max_threads(), bytes_of_all / (8 * max_threads())));
}

/// Measures and changes pieces that share no coefficients with each other, each as soon as it is measured, when most of
/// it is still in the cache: small ones side by side, large ones by all threads together.
template <class T>
void project(std::span<const ProjectionPiece<T>> pieces, std::span<const LinearChange> changes,
             std::vector<PieceCoefficients>& measured, std::vector<PieceNorms>& norms) {
  measured.resize(pieces.size());
  norms.resize(pieces.size());
  std::vector<Index> bytes;
  for (const auto& [tensor, fast, slow, left, right, origin] : pieces) {
    bytes.push_back(fast * slow * (static_cast<Index>(sizeof(T)) + left.cols * bytes_of<T>(left.storage)));
  }
  const Index largest = largest_alone(std::accumulate(bytes.begin(), bytes.end(), Index{0}));
  std::vector<std::size_t> side_by_side, others;
  for (std::size_t p = 0; p < pieces.size(); ++p) (bytes[p] <= largest ? side_by_side : others).push_back(p);
  const auto project_one = [&](std::size_t p) {
    std::vector<PieceCoefficients> own;
    std::vector<PieceNorms> own_norms;
    coefficients(pieces.subspan(p, 1), own);
    const PieceChange own_change = changes[p](own[0].inner);
    change(pieces.subspan(p, 1), std::span<const PieceChange>(&own_change, 1), own_norms);
    measured[p] = std::move(own[0]);
    norms[p] = own_norms[0];
  };
  parallel_for(static_cast<Index>(side_by_side.size()), worth_threads(pieces),
               [&](Index i) { project_one(side_by_side[static_cast<std::size_t>(i)]); });
  for (const std::size_t p : others) project_one(p);
}

/// The first piece with a value of |x| >= 2^exponent, or one that is not finite, or -1.
template <class T>
Index first_piece_beyond(std::span<const ProjectionPiece<T>> pieces, int exponent) {
  const auto tasks = make_tasks(pieces);
  std::vector<char> beyond(tasks.size());
  parallel_for(static_cast<Index>(tasks.size()), worth_threads(pieces), [&](Index i) {
    const PieceTask& task = tasks[static_cast<std::size_t>(i)];
    const auto& piece = pieces[task.piece];
    const Index across = piece.slow == 1 ? 1 : piece.left.cols == 0 ? piece.slow : piece.fast;
    const auto is_beyond = [&](ConstTensorView tensor) {
      return tensor.data != nullptr && visit_dtype(tensor.dtype, [&](auto* tag) {
               using S = std::remove_pointer_t<decltype(tag)>;
               const S* data = static_cast<const S*>(tensor.data) + task.begin * across;
               return find_beyond(data, (task.end - task.begin) * across, exponent) >= 0;
             });
    };
    beyond[static_cast<std::size_t>(i)] = is_beyond(piece.tensor) || is_beyond(piece.origin);
  });
  const auto found = std::find(beyond.begin(), beyond.end(), 1);
  return found == beyond.end() ? -1 : static_cast<Index>(tasks[static_cast<std::size_t>(found - beyond.begin())].piece);
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
    if (in_place(piece)) {
      T* const first = static_cast<T*>(piece.tensor.data) + col * piece.fast + row;
      part = change_panel(piece, change, MatrixView<T>(first, rows, cols, piece.fast));
    } else {
      panel.resize(rows, cols);
      load_panel(piece, piece.fast, row, col, panel);
      part = change_panel(piece, change, view_of(panel));
      store_panel(panel, piece, piece.fast, row, col);
    }
    norms.before += part.before;
    norms.inside += part.inside;
    norms.after += part.after;
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
