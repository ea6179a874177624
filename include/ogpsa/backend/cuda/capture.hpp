#pragma once

#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "ogpsa/backend/cuda.hpp"
#include "ogpsa/projector.hpp"

/// \file
/// A projection that is prepared once and then only launched: to be captured in a CUDA graph.

namespace ogpsa {

/// `Projector::project_gradients` of the same tensors over and over. What it needs is made here, in memory of its own;
/// then `enqueue` neither allocates, nor copies from the host, nor waits, and the report stays on the device until it
/// is asked for.
///
///     projector.project_gradients(gradients);          // once as ever: the libraries load their kernels
///     const ogpsa::CudaProjection<float> projection(projector, gradients);
///     cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
///     projection.enqueue(stream);                       // after the backward pass, before the optimizer
///     cudaStreamEndCapture(stream, &graph);
///     ...                                               // instantiate; launch for every step
///     const ogpsa::Report report = projection.report(stream);
///
/// Tensors stay where they are, and the projector as it is: make another one, and capture anew, after a refresh. A
/// graph uses the memory of this object, which must outlive its last launch. Not for several threads at once.
///
/// Nobody looks at the gradients before they are projected: a value that is not finite spoils its block, which `report`
/// says. Where a report is not fetched for every step, look at the norm that gradients are clipped by.
template <class T>
class CudaProjection {
 public:
  /// \throws InvalidArgument for what is decided on the host: modes `conflicting` and `one_sided`, groups of several
  ///         blocks, sums over ranks; and for BasisStorage::page_locked. StateError before the first refresh;
  ///         CudaError, CudaOutOfMemory
  template <class B>
  CudaProjection(const Projector<T, B>& projector, std::span<const TensorView> gradients)
      : CudaProjection(projector.backend(), projector.prepare_gradients(gradients)) {}
  ~CudaProjection() {
    const std::lock_guard lock(context_->mutex());
    context_->release(workspace_);
  }
  CudaProjection(const CudaProjection&) = delete;
  CudaProjection& operator=(const CudaProjection&) = delete;

  /// Launches the projection on a stream, which may be in capture. \throws CudaError
  void enqueue(cudaStream_t stream) const { projection_->enqueue({context_, workspace_, stream}); }

  /// What the last projection has done; waits for all that was asked for on `stream`, on which it was enqueued or its
  /// graph launched. Not in capture.
  /// \throws NonFiniteError naming the first block whose gradient was not finite, or left the range of the arithmetic:
  ///         it is spoiled, and must not be used
  Report report(cudaStream_t stream) const {
    std::vector<PieceCoefficients> measured;
    std::vector<PieceNorms> norms;
    projection_->read({context_, workspace_, stream}, measured, norms);
    auto batch = batch_;
    batch.record_shared(units_, measured, norms);
    batch.record_sides(std::span(norms).subspan(batch.shared.size()));
    batch.take_roots();
    Report report = report_;
    for (std::size_t u = 0; u < units_.size(); ++u) {
      check_norms(units_[u].name, batch.results[u]);
      report.entries[u].result = std::move(batch.results[u]);
    }
    return report;
  }

 private:
  CudaProjection(const CudaBackend& backend, std::pair<std::vector<ProjectionUnit<T>>, Report> prepared)
      : context_(backend.context()),
        units_(std::move(prepared.first)),
        report_(std::move(prepared.second)),
        batch_(units_) {
    if (backend.sums_over_ranks()) {
      throw InvalidArgument("ogpsa: a projection that sums over ranks cannot be captured; use project_gradients");
    }
    for (const auto& unit : units_) check_unit(unit);
    auto pieces = batch_.shared;
    pieces.insert(pieces.end(), batch_.sides.begin(), batch_.sides.end());
    auto changes = batch_.linear_changes(units_);
    for (auto& side : batch_.side_changes(units_)) changes.push_back({side.keep, 1, std::move(side.remove)});
    try {
      const detail::cuda::Session session(context_, workspace_);
      projection_.emplace(session, pieces, changes);
      if (projection_->is_staged()) {
        throw InvalidArgument(
            "ogpsa: bases in page-locked memory are copied from the host in each projection, which cannot be captured; "
            "use BasisStorage::full, or project_gradients");
      }
      session->synchronize();  // whatever stream a graph is launched on, the tables are there
    } catch (...) {
      context_->release(workspace_);
      throw;
    }
  }
  static void check_unit(const ProjectionUnit<T>& unit) {
    if (detail::is_linear(unit) && unit.pieces.size() <= 1 && unit.normalizer.size() == 0) return;
    throw InvalidArgument("ogpsa: the projection of block '" + unit.name +
                          "' is decided on the host, so that it cannot be captured; use mode orthogonal or inside and "
                          "Granularity::block, or project_gradients");
  }
  static void check_norms(const std::string& block, const ProjectionResult& r) {
    if (detail::is_finite(r.norm_before) && detail::is_finite(r.norm_after) && detail::is_finite(r.norm_inside)) return;
    throw NonFiniteError("ogpsa: block '" + block +
                         "': the gradient had a value that is NaN or infinite, or too large for the arithmetic, and is "
                         "spoiled. Skip this step, or lower the learning rate or the loss scale");
  }

  std::shared_ptr<detail::cuda::Context> context_;
  mutable detail::cuda::Workspace workspace_;
  std::vector<ProjectionUnit<T>> units_;
  Report report_;
  detail::ProjectionBatch<T> batch_;
  std::optional<detail::cuda::LinearProjection<T>> projection_;
};

}  // namespace ogpsa
