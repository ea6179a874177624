#pragma once

#include <algorithm>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/launch.hpp"

/// \file
/// Projection of vectors that fit the cache of the device, all of them in one launch: a vector is changed soon after it
/// is measured, so that it and its basis come from memory once.

namespace ogpsa::detail::cuda {

/// x <- keep x - basis (weights o basis^T x) for each vector.
class FusedTable {
 public:
  /// Whether a vector and its basis are small enough: some of them have to be in the cache at a time.
  template <class T>
  static bool fits(const Session& session, const ProjectionPiece<T>& piece) {
    return piece.left.cols <= kThreads && bytes_of(piece) <= session->l2_bytes() / kShare;
  }

  /// \param results  where its coefficients go, and |x|^2 after them; \param weights  where its weights start
  /// \param after    where |x|^2 of the result goes
  template <class T>
  void add(const ProjectionPiece<T>& piece, double keep, Index results, Index weights, Index after) {
    const Index size = piece.fast * piece.slow, rank = piece.left.cols, tasks = std::max<Index>(1, tasks_of(size));
    vectors_.push_back({{piece.tensor.data, piece.origin.data, piece.left.data, size, piece.left.stride, rank, 0,
                         partial_, weights, keep, static_cast<int>(piece.tensor.dtype), 0},
                        tasks,
                        results,
                        after});
    bytes_.push_back(bytes_of(piece));
    partial_ += tasks * (rank + 1);
    tasks_ += 2 * tasks;
  }
  bool empty() const { return vectors_.empty(); }

  /// Sends the tables, so that later calls neither send nor allocate.
  void prepare(const Session& session) {
    if (empty()) return;
    make_steps(session->l2_bytes() / kShare);
    vectors_on_device_ = session->upload(kFusedTable, vectors_.data(), static_cast<Index>(vectors_.size()));
    steps_on_device_ = session->upload(kFusedSteps, steps_.data(), static_cast<Index>(steps_.size()));
    partial_on_device_ = session->scratch<double>(kFusedPartial, partial_);
    // The kernel leaves zeros behind, so that this table, once sent, stays what it is.
    const std::vector<unsigned int> zeros(1 + 3 * vectors_.size(), 0);
    state_ = const_cast<unsigned int*>(session->upload(kFusedState, zeros.data(), static_cast<Index>(zeros.size())));
  }

  template <class T>
  void enqueue(const Session& session, const double* weights, double* results) const {
    if (empty()) return;
    const FusedParameters parameters{vectors_on_device_,
                                     steps_on_device_,
                                     static_cast<Index>(steps_.size()),
                                     tasks_,
                                     weights,
                                     partial_on_device_,
                                     results,
                                     state_};
    const Index blocks = std::min<Index>(tasks_, kBlocks * session->multiprocessors());
    session->module().launch(typed<T>("ogpsa_fused"), blocks, session->stream(), parameters);
  }

 private:
  // Not measured, for want of a GPU: how much of the cache vectors between measuring and changing may take, and blocks
  // at work on each multiprocessor; more of them hide more of the memory's delay, and need more of the cache.
  static constexpr std::size_t kShare = 4;
  static constexpr Index kBlocks = 4;

  static Index tasks_of(Index size) { return (size + kFusedTask - 1) / kFusedTask; }
  template <class T>
  static std::size_t bytes_of(const ProjectionPiece<T>& piece) {
    const Index one = visit_dtype(piece.tensor.dtype, [](auto* tag) { return static_cast<Index>(sizeof(*tag)); });
    const Index element = one + (piece.origin.data ? one : 0) + piece.left.cols * static_cast<Index>(sizeof(T));
    return static_cast<std::size_t>(piece.fast * piece.slow * element);
  }

  /// Vectors are measured in groups of `most` bytes; a group is changed after the next one is measured, so that few
  /// blocks wait.
  void make_steps(std::size_t most) {
    steps_.clear();
    Index task = 0;
    const auto add = [&](std::size_t begin, std::size_t end, int change) {
      for (std::size_t v = begin; v < end; ++v) {
        steps_.push_back({task, static_cast<int>(v), change});
        task += vectors_[v].tasks;
      }
    };
    std::size_t before = 0;  // the group before is [before, begin)
    for (std::size_t begin = 0, end = 0; begin < vectors_.size(); begin = end) {
      for (std::size_t bytes = 0; end < vectors_.size() && (end == begin || bytes + bytes_[end] <= most); ++end) {
        bytes += bytes_[end];
      }
      add(begin, end, 0);
      add(before, begin, 1);
      before = begin;
    }
    add(before, vectors_.size(), 1);
  }

  std::vector<FusedEntry> vectors_;
  std::vector<std::size_t> bytes_;
  std::vector<FusedStep> steps_;
  Index tasks_ = 0, partial_ = 0;
  const FusedEntry* vectors_on_device_ = nullptr;
  const FusedStep* steps_on_device_ = nullptr;
  double* partial_on_device_ = nullptr;
  unsigned int* state_ = nullptr;
};

}  // namespace ogpsa::detail::cuda
