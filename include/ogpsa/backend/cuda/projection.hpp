#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/products.hpp"

/// \file
/// Projection of many tensors at once. Vectors go through our own kernels, all of them in one launch; matrices through
/// cuBLAS, in place where they are stored in the arithmetic type, else a panel at a time. Nothing waits for the device
/// before the results are fetched.

namespace ogpsa::detail::cuda {

inline constexpr Index kVectorTask = 16384;

struct VectorEntry {
  void* data;
  const void* origin;
  const void* basis;
  Index size;
  Index stride;
  Index rank;
  Index first_task;
  Index partial;
  Index remove;
  double keep;
  int dtype, unused = 0;
};
struct MeasureParameters {
  const VectorEntry* vectors;
  Index count;
  double* partial;
};
struct ChangeParameters {
  const VectorEntry* vectors;
  Index count;
  const double* remove;
  double* partial;
};

/// The vectors of one launch, with the rows of their results.
class VectorTable {
 public:
  /// \param slot  for the table in device memory, so that it need not be sent again in the next step
  explicit VectorTable(Slot slot) : slot_(slot) {}

  /// \param results  numbers for each task; \param remove  where its coefficients start
  template <class T>
  void add(const ProjectionPiece<T>& piece, const void* basis, Index stride, Index rank, Index results, double keep = 1,
           Index remove = 0) {
    const Index size = piece.fast * piece.slow, tasks = (size + kVectorTask - 1) / kVectorTask;
    rows_.push_back({partial_, tasks, results, results_});
    results_ += results;
    if (tasks == 0) return;
    entries_.push_back({piece.tensor.data, piece.origin.data, basis, size, stride, rank, tasks_, partial_, remove, keep,
                        static_cast<int>(piece.tensor.dtype), 0});
    tasks_ += tasks;
    partial_ += tasks * results;
  }

  /// Numbers after all sums.
  Index results() const { return results_; }

  /// basis^T x and |x|^2 of each vector, in order, to `results`.
  template <class T>
  void measure(const Session& session, double* results) const {
    double* partial = session->scratch<double>(kPartial, std::max<Index>(partial_, 1));
    const MeasureParameters parameters{upload(session), static_cast<Index>(entries_.size()), partial};
    session->module().launch(typed<T>("ogpsa_measure"), tasks_, session->stream(), parameters);
    gather(session, Combination::sum, rows_, partial, results, rows_slot());
  }
  /// x <- keep x - basis remove for each vector; |x|^2 afterwards, in order, to `results`.
  template <class T>
  void change(const Session& session, const double* remove, double* results) const {
    double* partial = session->scratch<double>(kPartial, std::max<Index>(partial_, 1));
    const ChangeParameters parameters{upload(session), static_cast<Index>(entries_.size()), remove, partial};
    session->module().launch(typed<T>("ogpsa_change"), tasks_, session->stream(), parameters);
    gather(session, Combination::sum, rows_, partial, results, rows_slot());
  }

 private:
  const VectorEntry* upload(const Session& session) const {
    return session->upload(slot_, entries_.data(), static_cast<Index>(entries_.size()));
  }

  Slot rows_slot() const { return static_cast<Slot>(slot_ + 1); }

  Slot slot_;
  std::vector<VectorEntry> entries_;
  std::vector<RowsEntry> rows_;
  Index tasks_ = 0, partial_ = 0, results_ = 0;
};

/// Columns (or rows) of the X of a piece in the arithmetic type: the tensor's own memory, or a copy that `write_back`
/// returns.
template <class T>
class Panel {
 public:
  Panel(const Session& session, const ProjectionPiece<T>& piece, Index row, Index col, Index rows, Index cols)
      : dtype_(piece.tensor.dtype), stride_(piece.fast) {
    visit_dtype(dtype_, [&](auto* tag) {
      using S = std::remove_pointer_t<decltype(tag)>;
      auto* first = static_cast<S*>(piece.tensor.data) + row + col * stride_;
      memory_ = first;
      if (piece.origin.data != nullptr) {
        origin_ = static_cast<const S*>(piece.origin.data) + row + col * stride_;
      } else if constexpr (std::is_same_v<S, T>) {
        view_ = {first, rows, cols, stride_};
      }
    });
    if (view_.data) return;
    view_ = {session->scratch<T>(kPanel, rows * cols), rows, cols};
    if (origin_ != nullptr) {
      elementwise(session, Operation::difference, view_, {memory_, dtype_, 1, 0}, origin_, nullptr, 1, stride_);
    } else {
      copy(session, {memory_, dtype_, 1, stride_}, strided(view_), rows, cols);
    }
  }
  MatrixView<T> view() const { return view_; }
  void write_back(const Session& session) const {
    if (origin_ != nullptr) {
      elementwise(session, Operation::move, view_, {memory_, dtype_, 1, 0}, origin_, nullptr, 1, stride_);
    } else if (view_.data != memory_) {
      copy(session, strided(view_), {memory_, dtype_, 1, stride_}, view_.rows, view_.cols);
    }
  }

 private:
  DType dtype_;
  Index stride_;
  void* memory_ = nullptr;
  const void* origin_ = nullptr;
  MatrixView<T> view_;
};

/// Columns or rows of a panel whose other length is `length`.
inline Index panel_width(Index length, Index across) {
  return std::min(across, std::max<Index>(kPanelElements / std::max<Index>(length, 1), 16));
}

/// sum (k_left x k_right, double) <- left^T X right
template <class T>
void measure_matrix(const Session& session, cublasHandle_t cublas, const ProjectionPiece<T>& piece, double* sum) {
  const Index kl = piece.left.cols, kr = piece.right.cols;
  const Index width = panel_width(piece.fast, piece.slow);
  T* half = session->scratch<T>(kProduct, kl * width + kl * kr);  // left^T X, and its product with right
  T* product = half + kl * width;
  check(cudaMemsetAsync(sum, 0, static_cast<std::size_t>(kl * kr) * sizeof(double), session->stream()),
        "cudaMemsetAsync", {{"rows", kl}, {"cols", kr}});
  double* squares = session->scratch<double>(kPartial, column_blocks(kl, std::max(width, kr)));
  for (Index j = 0; j < piece.slow; j += width) {
    const Index count = std::min(width, piece.slow - j);
    const Panel<T> panel(session, piece, 0, j, piece.fast, count);
    long_product<T>(session, cublas, piece.left.matrix(), Transpose::yes, panel.view(), half, nullptr, false, squares);
    long_product<T>(session, cublas, {half, kl, count}, Transpose::no, piece.right.row_range(j, count), product,
                    nullptr, false, squares);
    elementwise<double>(session, Operation::add_scaled, {sum, kl * kr, 1}, {product, dtype_of<T>(), 1, kl * kr});
  }
}

/// Coefficients and norms of pieces that share theirs (see ProjectionPiece).
template <class T>
void coefficients(const Session& session, std::span<const ProjectionPiece<T>> pieces,
                  std::vector<PieceCoefficients>& out) {
  VectorTable table(kMeasureTable);
  Index matrices = 0;
  for (const auto& p : pieces) {
    const bool vector = p.slow == 1;
    table.add(p, p.left.data, p.left.stride, vector ? p.left.cols : 0, vector ? p.left.cols + 1 : 1);
    if (!vector) matrices += p.left.cols * p.right.cols;
  }
  double* results = session->scratch<double>(kResults, table.results() + matrices);
  table.measure<T>(session, results);
  Index at = table.results();
  if (matrices > 0) {
    const CublasSession cublas(*session);
    for (const auto& p : pieces) {
      if (p.slow == 1) continue;
      measure_matrix(session, cublas, p, results + at);
      at += p.left.cols * p.right.cols;
    }
  }
  const auto host = session->fetch(results, at);
  const double* next = host.data();
  const double* next_matrix = next + table.results();
  out.clear();
  for (const auto& p : pieces) {
    const bool vector = p.slow == 1;
    const Index rows = p.left.cols, cols = vector ? 1 : p.right.cols;
    const double*& from = vector ? next : next_matrix;
    out.push_back({Eigen::Map<const Eigen::MatrixXd>(from, rows, cols), 0});
    from += rows * cols;
    out.back().squared_norm = *next++;
  }
}

/// X <- keep X - left remove right^T
template <class T>
void change_matrix(const Session& session, cublasHandle_t cublas, const ProjectionPiece<T>& piece, double keep,
                   const double* remove) {
  const Index kl = piece.left.cols, kr = piece.right.cols;
  const Index width = panel_width(piece.fast, piece.slow);
  T* factor = session->scratch<T>(kProduct, kl * kr + kl * width);
  T* half = factor + kl * kr;  // remove right^T
  copy(session, {remove, DType::float64, 1, kl}, {factor, dtype_of<T>(), 1, kl}, kl, kr);
  for (Index j = 0; j < piece.slow; j += width) {
    const Index count = std::min(width, piece.slow - j);
    const Panel<T> panel(session, piece, 0, j, piece.fast, count);
    const auto x = panel.view();
    const auto right = piece.right.row_range(j, count);
    gemm<T>(cublas, kl, count, kr, 1, {factor, kl, 0}, {right.data, right.stride, 0, Transpose::yes}, 0, half, kl, 0,
            1);
    gemm<T>(cublas, piece.fast, count, kl, -1, {piece.left.matrix().data, piece.left.stride, 0}, {half, kl, 0},
            static_cast<T>(keep), x.data, x.stride, 0, 1);
    panel.write_back(session);
  }
}

/// Applies `changes` to pieces that share coefficients. Fills `after` only: the rest is known to the caller.
template <class T>
void change(const Session& session, std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
            std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  VectorTable vectors(kChangeTable), matrices(kAfterTable);
  std::vector<double> removed;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const auto& piece = pieces[p];
    const auto& remove = changes[p].remove;
    if (piece.slow == 1) {
      vectors.add(piece, piece.left.data, piece.left.stride, piece.left.cols, 1, changes[p].keep,
                  static_cast<Index>(removed.size()));
    } else {
      matrices.add(piece, nullptr, 0, 0, 1);
    }
    removed.insert(removed.end(), remove.data(), remove.data() + remove.size());
  }
  const double* remove = session->upload(kFactors, removed.data(), static_cast<Index>(removed.size()));
  double* results = session->scratch<double>(kResults, static_cast<Index>(pieces.size()));
  if (vectors.results() > 0) vectors.change<T>(session, remove, results);
  if (matrices.results() > 0) {
    const CublasSession cublas(*session);
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const auto& c = changes[p];
      const bool nothing = c.keep == 1 && c.remove.isZero(0);
      if (pieces[p].slow > 1 && !nothing) change_matrix(session, cublas, pieces[p], c.keep, remove);
      if (remove) remove += c.remove.size();
    }
    matrices.measure<T>(session, results + vectors.results());
  }
  const auto host = session->fetch(results, static_cast<Index>(pieces.size()));
  const double* next_vector = host.data();
  const double* next_matrix = next_vector + vectors.results();
  for (std::size_t p = 0; p < pieces.size(); ++p)
    norms[p].after = pieces[p].slow == 1 ? *next_vector++ : *next_matrix++;
}

/// Projects one side of a matrix; sums of squares of the component inside go to `squares`.
/// \returns how many
template <class T>
Index change_side(const Session& session, cublasHandle_t cublas, const ProjectionPiece<T>& piece, double keep,
                  const double* remove, double* squares) {
  const bool on_left = piece.left.cols > 0;
  const MatrixView<const T> basis = on_left ? piece.left.matrix() : piece.right;
  const Index length = on_left ? piece.fast : piece.slow, across = on_left ? piece.slow : piece.fast;
  const Index width = panel_width(length, across), k = basis.cols;
  T* inner = session->scratch<T>(kProduct, k * width);
  Index written = 0;
  for (Index j = 0; j < across; j += width) {
    const Index count = std::min(width, across - j);
    const Panel<T> panel(session, piece, on_left ? 0 : j, on_left ? j : 0, on_left ? length : count,
                         on_left ? count : length);
    const auto x = panel.view();
    if (on_left) {
      long_product<T>(session, cublas, basis, Transpose::yes, x, inner, remove, true, squares + written);
      gemm<T>(cublas, length, count, k, -1, {basis.data, basis.stride, 0}, {inner, k, 0}, static_cast<T>(keep), x.data,
              x.stride, 0, 1);
    } else {
      long_product<T>(session, cublas, x, Transpose::no, basis, inner, remove, false, squares + written);
      gemm<T>(cublas, count, length, k, -1, {inner, count, 0}, {basis.data, basis.stride, 0, Transpose::yes},
              static_cast<T>(keep), x.data, x.stride, 0, 1);
    }
    written += on_left ? column_blocks(k, count) : column_blocks(count, k);
    panel.write_back(session);
  }
  return written;
}

/// An upper bound of what `change_side` writes.
template <class T>
Index side_squares(const ProjectionPiece<T>& piece) {
  const bool on_left = piece.left.cols > 0;
  const Index length = on_left ? piece.fast : piece.slow, across = on_left ? piece.slow : piece.fast;
  const Index k = on_left ? piece.left.cols : piece.right.cols, width = panel_width(length, across);
  return (across + width - 1) / width * (on_left ? column_blocks(k, width) : column_blocks(width, k));
}

template <class T>
void change_side(const Session& session, std::span<const ProjectionPiece<T>> pieces,
                 std::span<const SideChange> changes, std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  if (pieces.empty()) return;
  VectorTable table(kMeasureTable);
  std::vector<double> removed;
  Index squares_count = 0;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const auto& remove = changes[p].remove;
    table.add(pieces[p], nullptr, 0, 0, 1);
    removed.insert(removed.end(), remove.data(), remove.data() + remove.size());
    squares_count += side_squares(pieces[p]);
  }
  const Index count = static_cast<Index>(pieces.size());
  double* results = session->scratch<double>(kResults, 3 * count);  // before, inside, after
  double* squares = session->scratch<double>(kSquares, std::max<Index>(squares_count, 1));
  const double* remove = session->upload(kFactors, removed.data(), static_cast<Index>(removed.size()));
  table.measure<T>(session, results);
  {
    const CublasSession cublas(*session);
    std::vector<RowsEntry> rows;
    Index at = 0;
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const Index written = change_side(session, cublas, pieces[p], changes[p].keep, remove, squares + at);
      rows.push_back({at, written, 1, static_cast<Index>(p)});
      at += written;
      remove += changes[p].remove.size();
    }
    gather(session, Combination::sum, rows, squares, results + count);
  }
  table.measure<T>(session, results + 2 * count);
  const auto host = session->fetch(results, 3 * count);
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    norms[p] = {host[p], host[p + 2 * pieces.size()], host[p + pieces.size()]};
  }
}

}  // namespace ogpsa::detail::cuda
