#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "ogpsa/backend/cuda/matrices.hpp"
#include "ogpsa/backend/cuda/vectors.hpp"

/// \file
/// Projection in two steps: coefficients to the host, which decides, and then the changes. Nothing waits for the device
/// before the results are fetched.

namespace ogpsa::detail::cuda {

/// Coefficients and norms of pieces that share theirs (see ProjectionPiece).
template <class T>
void coefficients(const Session& session, std::span<const ProjectionPiece<T>> pieces,
                  std::vector<PieceCoefficients>& out) {
  VectorTable table(kMeasureTable);
  Index numbers = 0;  // of the coefficients of matrices
  for (const auto& p : pieces) {
    const bool vector = p.slow == 1;
    table.add(p, p.left.data, p.left.stride, vector ? p.left.cols : 0, vector ? p.left.cols + 1 : 1);
    if (!vector) numbers += p.left.cols * p.right.cols;
  }
  double* results = session->scratch<double>(kResults, table.results() + numbers);
  table.measure<T>(session, results);
  if (numbers > 0) {
    MatrixBatches<T> matrices;
    double* inner = results + table.results();
    for (const auto& p : pieces) {
      if (p.slow == 1) continue;
      matrices.add(p, {.inner = inner});
      inner += p.left.cols * p.right.cols;
    }
    matrices.prepare(session);
    matrices.measure(session, CublasSession(*session));
  }
  const auto host = session->fetch(results, table.results() + numbers);
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

/// Applies `changes` to pieces that share coefficients. Fills `after` only: the rest is known to the caller.
template <class T>
void change(const Session& session, std::span<const ProjectionPiece<T>> pieces, std::span<const PieceChange> changes,
            std::vector<PieceNorms>& norms) {
  norms.assign(pieces.size(), {});
  VectorTable vectors(kChangeTable), after(kAfterTable);
  std::vector<double> removed;
  for (std::size_t p = 0; p < pieces.size(); ++p) {
    const auto& piece = pieces[p];
    const auto& remove = changes[p].remove;
    if (piece.slow == 1) {
      vectors.add(piece, piece.left.data, piece.left.stride, piece.left.cols, 1, changes[p].keep,
                  static_cast<Index>(removed.size()));
    } else {
      after.add(piece, nullptr, 0, 0, 1);
    }
    removed.insert(removed.end(), remove.data(), remove.data() + remove.size());
  }
  const Index numbers = static_cast<Index>(removed.size());
  const double* remove = session->upload(kFactors, removed.data(), numbers);
  double* results = session->scratch<double>(kResults, static_cast<Index>(pieces.size()));
  if (vectors.results() > 0) vectors.change<T>(session, remove, results);
  if (after.results() > 0) {
    T* rounded = session->scratch<T>(kRounded, numbers);
    copy(session, {remove, DType::float64, 1, numbers}, {rounded, dtype_of<T>(), 1, numbers}, numbers, 1);
    MatrixBatches<T> matrices;
    for (std::size_t p = 0; p < pieces.size(); ++p) {
      const auto& c = changes[p];
      const bool nothing = c.keep == 1 && c.remove.isZero(0);
      if (pieces[p].slow > 1 && !nothing) matrices.add(pieces[p], {.keep = c.keep, .remove = rounded});
      rounded += c.remove.size();
    }
    matrices.prepare(session);
    matrices.change(session, CublasSession(*session));
    after.measure<T>(session, results + vectors.results());
  }
  const auto host = session->fetch(results, static_cast<Index>(pieces.size()));
  const double* next_vector = host.data();
  const double* next_matrix = next_vector + vectors.results();
  for (std::size_t p = 0; p < pieces.size(); ++p)
    norms[p].after = pieces[p].slow == 1 ? *next_vector++ : *next_matrix++;
}

}  // namespace ogpsa::detail::cuda
