#pragma once

#include <algorithm>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/launch.hpp"

/// \file
/// Projection of vectors that fit the cache of the device, all of them in one launch: a vector is changed soon after it
/// is measured, so that it and its basis come from memory once.

namespace ogpsa::detail::cuda {

/// x <- keep x - basis (weights o basis^T x) for each vector, of one launch or several.
class FusedTable {
 public:
  /// \param slot  the first of four: three for tables in device memory, so that they need not be sent again in the next
  /// step
  explicit FusedTable(Slot slot) : slot_(slot) {}

  /// Whether a vector and its basis are small enough: some of them have to be in the cache at a time.
  template <class T>
  static bool fits(const Session& session, const ProjectionPiece<T>& piece) {
    return piece.left.cols <= kThreads && bytes_of(piece) <= session->l2_bytes() / kShare;
  }

  /// \param results  where its coefficients go, and |x|^2 after them; \param weights  where its weights start
  /// \param after    where |x|^2 of the result goes
  template <class T>
  void add(const ProjectionPiece<T>& piece, const void* basis, double keep, Index results, Index weights, Index after) {
    const Index size = piece.fast * piece.slow, rank = piece.left.cols, tasks = std::max<Index>(1, tasks_of(size));
    vectors_.push_back({{piece.tensor.data, piece.origin.data, basis, size, piece.left.stride, rank, 0, partial_,
                         weights, keep, static_cast<int>(piece.tensor.dtype), 0},
                        tasks,
                        results,
                        after});
    bytes_.push_back(bytes_of(piece));
    partial_ += tasks * (rank + 1);
  }
  bool empty() const { return vectors_.empty(); }
  /// What is added from here on belongs to the next launch.
  void end_launch() { launches_.push_back({vectors_.size(), 0, 0, 0}); }

  /// Sends the tables, so that later calls neither send nor allocate.
  void prepare(const Session& session) {
    if (empty()) return;
    if (launches_.empty() || launches_.back().last_vector < vectors_.size()) end_launch();
    std::size_t first = 0;
    for (auto& launch : launches_) {
      make_steps(launch, first, session->l2_bytes() / kShare);
      first = launch.last_vector;
    }
    vectors_on_device_ = session->upload(slot(0), vectors_.data(), static_cast<Index>(vectors_.size()));
    steps_on_device_ = session->upload(slot(1), steps_.data(), static_cast<Index>(steps_.size()));
    partial_on_device_ = session->scratch<double>(slot(3), partial_);
    // The kernel leaves zeros behind, so that this table, once sent, stays what it is.
    const std::vector<unsigned int> zeros(1 + 3 * vectors_.size(), 0);
    state_ = const_cast<unsigned int*>(session->upload(slot(2), zeros.data(), static_cast<Index>(zeros.size())));
  }

  template <class T>
  void enqueue(const Session& session, const double* weights, double* results, std::size_t number = 0) const {
    if (empty()) return;
    const Launch& launch = launches_[number];
    const FusedParameters parameters{vectors_on_device_,
                                     steps_on_device_ + launch.first_step,
                                     launch.steps,
                                     launch.tasks,
                                     weights,
                                     partial_on_device_,
                                     results,
                                     state_};
    const Index blocks = std::min<Index>(launch.tasks, kBlocks * session->multiprocessors());
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

  struct Launch {
    std::size_t last_vector;  // the one after it
    Index first_step, steps, tasks;
  };
  Slot slot(int i) const { return static_cast<Slot>(slot_ + static_cast<std::size_t>(i)); }

  /// The vectors of a launch are measured in groups of `most` bytes; a group is changed after the next one is measured,
  /// so that few blocks wait.
  void make_steps(Launch& launch, std::size_t first, std::size_t most) {
    launch.first_step = static_cast<Index>(steps_.size());
    launch.tasks = 0;
    const auto add = [&](std::size_t begin, std::size_t end, int change) {
      for (std::size_t v = begin; v < end; ++v) {
        steps_.push_back({launch.tasks, static_cast<int>(v), change});
        launch.tasks += vectors_[v].tasks;
      }
    };
    std::size_t before = first;  // the group before is [before, begin)
    for (std::size_t begin = first, end = first; begin < launch.last_vector; begin = end) {
      for (std::size_t bytes = 0; end < launch.last_vector && (end == begin || bytes + bytes_[end] <= most); ++end) {
        bytes += bytes_[end];
      }
      add(begin, end, 0);
      add(before, begin, 1);
      before = begin;
    }
    add(before, launch.last_vector, 1);
    launch.steps = static_cast<Index>(steps_.size()) - launch.first_step;
  }

  Slot slot_;
  std::vector<Launch> launches_;
  std::vector<FusedEntry> vectors_;
  std::vector<std::size_t> bytes_;
  std::vector<FusedStep> steps_;
  Index partial_ = 0;
  const FusedEntry* vectors_on_device_ = nullptr;
  const FusedStep* steps_on_device_ = nullptr;
  double* partial_on_device_ = nullptr;
  unsigned int* state_ = nullptr;
};

}  // namespace ogpsa::detail::cuda
