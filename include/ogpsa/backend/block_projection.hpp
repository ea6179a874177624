#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/backend/pieces.hpp"
#include "ogpsa/backend/projection_kernels.hpp"

/// \file
/// Projection of many tensors at once on the host: left^T X right is measured, then X changed by what is chosen of it.

namespace ogpsa::detail {

/// Coefficients of elements [begin, end) of a vector.
template <class T>
void add_vector_coefficients(const ProjectionPiece<T>& piece, Index begin, Index end, PieceCoefficients& sum) {
  alignas(64) T buffer[kGranule];
  const Index rank = piece.left.cols;
  CompensatedSum inner(rank, 1);
  Eigen::MatrixXd products(rank, 1);
  for (Index i = begin, n = 0; i < end; i += n) {
    n = granule(piece.left, i, end, kGranule);
    const auto in_double = [&] { return squared_norm(load<T>(piece, i, n, buffer), n); };
    if (rank == 0) {
      sum.squared_norm += in_double();
      continue;
    }
    double square = 0;  // in lanes of T
    visit_elements<T>(piece, i, n, true, buffer, [&]<class X>(const X* x) {
      in_groups_of_columns(rank, [&](auto count, Index k) {
        double sums[count + 1] = {};
        visit_columns(piece.left, i, k, [&]<class S>(BasisColumns<T, S> q) {
          run_best<MeasureKernel<T, count, S, X>>(q, x, n, static_cast<double*>(sums));
        });
        for (int j = 0; j < count; ++j) at(products, k + j) = sums[j];
        square = sums[count];
      });
    });
    inner.add(products);
    sum.squared_norm += squared_norm_or<T>(square, n, in_double);
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
  const auto parts = on_tasks(pieces, tasks, [&](const PieceTask& task) {
    const auto& piece = pieces[task.piece];
    PieceCoefficients part = zero(piece);
    if (piece.slow == 1) {
      add_vector_coefficients(piece, task.begin, task.end, part);
    } else {
      add_matrix_coefficients(piece, task.begin, task.end, part);
    }
    return part;
  });
  for (std::size_t t = 0; t < tasks.size(); ++t) {
    add_scaled(values(out[tasks[t].piece].inner), 1, values(parts[t].inner));
    out[tasks[t].piece].squared_norm += parts[t].squared_norm;
  }
}

/// Then a tensor is not written, so that it keeps its bits also where it is wider than the arithmetic.
inline bool nothing_to_do(const PieceChange& change) { return change.keep == 1 && all_zero(values(change.remove)); }

/// x <- keep x - left remove on n rows from `row` on, which are rounded to X for each group of columns. Returns |x|^2
/// before the last rounding, summed in lanes of T.
template <class T, class X>
double change_elements(const BasisView<T>& left, Index row, Index n, T keep, const Dense<T>& remove, X* x) {
  if (left.cols == 0) {  // any column will do that is there
    const T none = 0;
    return run_best<ChangeKernel<T, 1, X, X>>(keep, &none, BasisColumns<T, X>{x, 0}, x, n);
  }
  double square = 0;
  in_groups_of_columns(left.cols, [&](auto count, Index k) {
    visit_columns(left, row, k, [&]<class S>(BasisColumns<T, S> q) {
      square = run_best<ChangeKernel<T, count, S, X>>(k == 0 ? keep : T(1), remove.data() + k, q, x, n);
    });
  });
  return square;
}

/// X <- keep X - left remove on elements [begin, end) of a vector; returns the squared norm of the result.
template <class T>
double change_vector(const ProjectionPiece<T>& piece, const PieceChange& change, Index begin, Index end) {
  alignas(64) T buffer[kGranule];
  const Dense<T> remove = rounded<T>(change.remove);
  const T keep = static_cast<T>(change.keep);
  const bool write = !nothing_to_do(change), rounded_once = groups_of_columns(piece.left.cols) <= 1;
  double after = 0;
  for (Index i = begin, n = 0; i < end; i += n) {
    n = granule(piece.left, i, end, kGranule);
    if (!write) {
      after += squared_norm(load<T>(piece, i, n, buffer), n);
      continue;
    }
    double square = 0;
    const bool in_buffer = visit_elements<T>(piece, i, n, rounded_once, buffer, [&]<class X>(X* x) {
      square = change_elements<T>(piece.left, i, n, keep, remove, x);
    });
    after += squared_norm_or<T>(square, n,
                                [&] { return squared_norm(in_buffer ? buffer : load<T>(piece, i, n, buffer), n); });
    if (in_buffer) store<T>(buffer, n, piece, i);
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
  const auto change_task = [&](const PieceTask& task) {
    const auto& [p, begin, end] = task;
    return pieces[p].slow == 1 ? change_vector(pieces[p], changes[p], begin, end)
                               : change_matrix(pieces[p], changes[p], begin, end);
  };
  const auto parts = on_tasks(pieces, tasks, change_task, /*backwards=*/true);
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

}  // namespace ogpsa::detail
