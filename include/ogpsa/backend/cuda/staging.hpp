#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "ogpsa/backend/cuda/fused.hpp"

/// \file
/// Projection of vectors whose bases are in page-locked memory of the host (BasisStorage::page_locked).

namespace ogpsa::detail::cuda {

/// Vectors whose bases pass through two parts of device memory: while those in one are projected by, the next are
/// copied to the other, on a stream of its own. Each basis crosses the bus once.
template <class T>
class StagedProjection {
 public:
  /// Whether a vector is for this class. A part of a basis, or one of more directions, is read where it is.
  static bool takes(const Session& session, const ProjectionPiece<T>& piece) {
    const Index rank = piece.left.cols;
    return rank > 0 && rank <= kThreads && piece.left.stride == piece.fast && session->is_on_host(piece.left.data);
  }

  /// As of FusedTable::add.
  void add(const ProjectionPiece<T>& piece, double keep, Index results, Index weights, Index after) {
    vectors_.push_back({piece, keep, results, weights, after, 0});
  }
  bool empty() const { return vectors_.empty(); }

  /// Divides the vectors into batches, and sends the tables.
  void prepare(const Session& session) {
    if (empty()) return;
    const std::size_t most = session->staging_bytes();
    std::size_t room = 0, bytes = 0;
    for (std::size_t v = 0; v < vectors_.size(); ++v) {
      const std::size_t own = bytes_of(vectors_[v].piece);
      if (bytes > 0 && bytes + own > most) {
        batches_.push_back(v);
        bytes = 0;
      }
      vectors_[v].offset = bytes;
      bytes += (own + kAlignment - 1) / kAlignment * kAlignment;
      room = std::max(room, bytes);
    }
    batches_.push_back(vectors_.size());
    unsigned char* memory = session->scratch<unsigned char>(kStaging, static_cast<Index>(2 * room));
    CopyStream& copies = session->copies();
    if (std::exchange(copies.memory, memory) != memory) {  // it is there when the stream comes to it
      for (const auto used : copies.used) record(used, session->stream());
    }
    for (std::size_t b = 0, v = 0; b < batches_.size(); ++b) {
      for (; v < batches_[b]; ++v) {
        auto& vector = vectors_[v];
        vector.on_device = memory + (b % 2) * room + vector.offset;
        table_.add(vector.piece, vector.on_device, vector.keep, vector.results, vector.weights, vector.after);
      }
      table_.end_launch();
    }
    table_.prepare(session);
  }

  void enqueue(const Session& session, const double* weights, double* results) const {
    if (empty()) return;
    // Copies wait for the projection before this one alone, so that they go on beside the backward pass. Its two parts
    // of the memory need not be ours.
    CopyStream& copies = session->copies();
    for (const auto used : copies.used) wait(copies.stream(), used);
    for (std::size_t b = 0, v = 0; b < batches_.size(); ++b) {
      wait(copies.stream(), copies.used[b % 2]);
      for (; v < batches_[b]; ++v) {
        const std::size_t bytes = bytes_of(vectors_[v].piece);
        check(cudaMemcpyAsync(vectors_[v].on_device, vectors_[v].piece.left.data, bytes, cudaMemcpyHostToDevice,
                              copies.stream()),
              "cudaMemcpyAsync to the device", {{"bytes", static_cast<Index>(bytes)}});
      }
      record(copies.filled[b % 2], copies.stream());
      wait(session->stream(), copies.filled[b % 2]);
      table_.template enqueue<T>(session, weights, results, b);
      record(copies.used[b % 2], session->stream());
    }
  }

 private:
  static constexpr std::size_t kAlignment = 256;

  static void record(cudaEvent_t event, cudaStream_t stream) {
    check(cudaEventRecord(event, stream), "cudaEventRecord");
  }
  static void wait(cudaStream_t stream, cudaEvent_t event) {
    check(cudaStreamWaitEvent(stream, event, 0), "cudaStreamWaitEvent");
  }

  struct Vector {
    ProjectionPiece<T> piece;
    double keep;
    Index results, weights, after;
    std::size_t offset;
    unsigned char* on_device = nullptr;
  };
  static std::size_t bytes_of(const ProjectionPiece<T>& piece) {
    return static_cast<std::size_t>(piece.fast * piece.left.cols) * sizeof(T);
  }

  std::vector<Vector> vectors_;
  std::vector<std::size_t> batches_;  // where each ends
  FusedTable table_{kStaged};
};

}  // namespace ogpsa::detail::cuda
