#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/launch.hpp"

/// \file
/// Products of tall matrices of few columns by our own kernels, all of them in one launch. Each element is read where
/// it lies; sums are in double.

namespace ogpsa::detail::cuda {

inline Index row_tasks(Index rows) { return (rows + ogpsa_cuda::kColumnPart - 1) / ogpsa_cuda::kColumnPart; }

/// Gram matrices, cut into tiles of kTile x kTile.
template <class T>
class NarrowGrams {
 public:
  static constexpr Index kNumbers = Index{kTile} * kTile;  // of a tile
  /// Beyond, columns would be read so often that cuBLAS is faster, though it needs them in double.
  static bool takes(const GramProblem<T>& problem) { return problem.a.cols <= 16 && problem.b.cols <= 16; }

  /// \param to  where the product will start in the result of `read`
  void add(const GramProblem<T>& problem, Index to) {
    const auto& [a, b] = problem;
    const bool same = a.data == b.data && a.cols == b.cols && a.stride == b.stride;
    const Index tasks = row_tasks(a.rows);
    for (Index j = 0; j < b.cols; j += kTile) {
      for (Index i = same ? j : 0; i < a.cols; i += kTile) {
        const int high = static_cast<int>(std::min<Index>(kTile, a.cols - i));
        const int wide = static_cast<int>(std::min<Index>(kTile, b.cols - j));
        rows_.push_back({tasks_ * kNumbers, tasks, kNumbers, results()});
        entries_.push_back(
            {a.data + i * a.stride, b.data + j * b.stride, a.rows, a.stride, b.stride, tasks_, high, wide});
        tiles_.push_back({to, a.cols, i, j, high, wide, same});
        tasks_ += tasks;
      }
    }
  }
  /// Numbers that `enqueue` writes.
  Index results() const { return static_cast<Index>(rows_.size()) * kNumbers; }

  void enqueue(const Session& session, double* results) const {
    if (entries_.empty()) return;
    double* partial = session->scratch<double>(kPartial, tasks_ * kNumbers);
    const Index count = static_cast<Index>(entries_.size());
    const GramParameters parameters{session->upload(kTiles, entries_.data(), count), count, partial};
    session->module().launch(typed<T>("ogpsa_gram"), tasks_, session->stream(), parameters);
    gather(session, Combination::sum, rows_, partial, results, static_cast<Slot>(kTiles + 1));
  }
  /// Puts the tiles together. \param results  on the host
  void read(const double* results, std::span<double> to) const {
    for (const Tile& tile : tiles_) {
      double* const matrix = to.data() + tile.to;
      for (int j = 0; j < tile.wide; ++j) {
        for (int i = 0; i < tile.high; ++i) {
          const double value = results[i + kTile * j];
          matrix[tile.row + i + (tile.col + j) * tile.stride] = value;
          if (tile.same) matrix[tile.col + j + (tile.row + i) * tile.stride] = value;
        }
      }
      results += kNumbers;
    }
  }

 private:
  struct Tile {
    Index to, stride, row, col;
    int high, wide;
    bool same;
  };
  std::vector<GramEntry> entries_;
  std::vector<RowsEntry> rows_;
  std::vector<Tile> tiles_;
  Index tasks_ = 0;
};

/// Products with small matrices, each in one pass over its rows, so that it may take their place.
template <class T>
class NarrowProducts {
 public:
  static bool takes(const ProductProblem<T>& problem) {
    return problem.a.cols <= kMostFactors && problem.x.cols() <= kMostProducts;
  }
  void add(const ProductProblem<T>& problem) {
    const auto& [a, x, to] = problem;
    entries_.push_back({a.data, to.data, a.rows, a.stride, to.stride, tasks_, static_cast<Index>(factors_.size()),
                        static_cast<int>(a.cols), static_cast<int>(x.cols())});
    factors_.insert(factors_.end(), x.data(), x.data() + x.size());
    tasks_ += row_tasks(a.rows);
  }
  void enqueue(const Session& session) const {
    if (entries_.empty()) return;
    const Index count = static_cast<Index>(entries_.size());
    const double* factors = session->upload(kFactors, factors_.data(), static_cast<Index>(factors_.size()));
    const ProductParameters parameters{session->upload(kNarrow, entries_.data(), count), count, factors};
    session->module().launch(typed<T>("ogpsa_multiply"), tasks_, session->stream(), parameters);
  }

 private:
  std::vector<ProductEntry> entries_;
  std::vector<double> factors_;
  Index tasks_ = 0;
};

}  // namespace ogpsa::detail::cuda
