#pragma once

#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/diagnostics.hpp"
#include "ogpsa/reference.hpp"

namespace ogpsa {

namespace detail {
template <class T, class B>
struct StateAccess;  // state.hpp
}

/// What a new set of reference gradients does to the subspaces that are there.
enum class RefreshPolicy {
  periodic,   ///< replaces them: a large set every N steps, as published
  streaming,  ///< is folded in with forgetting: a small batch every step or every few
};

struct ProjectorOptions {
  RefreshPolicy policy = RefreshPolicy::periodic;
  /// Optimizer steps between refreshes; at least 1. OGPSA: 30 in SFT, 5 in DPO.
  Index refresh_every = 30;
  /// Weight of the old singular values at a streaming refresh, in (0, 1].
  double forgetting = 0.9;
  Granularity granularity = Granularity::block;
  ProjectionOptions projection = {};
  ReferenceOptions reference = {};
  /// How flat bases are kept between refreshes. Rounded, they take less memory, and less time to project by;
  /// projections are exact for the span of the rounded basis; float arithmetic only. Page-locked, they take no memory
  /// of a GPU.
  BasisStorage basis_storage = BasisStorage::full;
};

/// The subspaces of a whole model: named blocks, their reference gradients, projection and diagnostics. Arithmetic and
/// bases are in `T`, tensors in any storage type.
///
///     ogpsa::Projector<float> projector({{.name = "w", .rows = 64, .cols = 32}}, {.refresh_every = 30});
///     if (projector.refresh_due(step)) {
///       auto reference = projector.begin_refresh();
///       reference.add(0, gradients_of_objective_0, rows);      // any number of batches and objectives
///       projector.finish_refresh(std::move(reference), step);
///     }
///     projector.project_gradients(gradients);                  // once per optimizer step
///
/// Const members may be called from several threads at once.
template <class T, class B = EigenBackend>
class Projector {
 public:
  /// \throws InvalidArgument naming the block or option that cannot be.
  explicit Projector(std::vector<BlockSpec> blocks, ProjectorOptions options = {}, B backend = {});

  const std::vector<BlockSpec>& blocks() const { return blocks_; }
  const ProjectorOptions& options() const { return options_; }
  const B& backend() const { return backend_; }

  /// Blocks that share one subspace, by index; a block alone is a group of one. Blocks of one group have to be given
  /// to a projection together.
  std::vector<std::vector<std::size_t>> groups() const {
    std::vector<std::vector<std::size_t>> result;
    for (const auto& unit : units_) result.push_back(unit.blocks);
    return result;
  }

  /// True when there is no subspace yet, or `step` is a multiple of `refresh_every`.
  bool refresh_due(Index step) const { return !ready() || step % options_.refresh_every == 0; }
  /// True once a refresh was finished, or a state was loaded.
  bool ready() const { return last_refresh_ >= 0; }
  Index last_refresh() const { return last_refresh_; }

  /// Starts to collect reference gradients; nothing changes before `finish_refresh`.
  ReferenceCollector<T, B> begin_refresh() const {
    return {blocks_,
            {units_.begin(), units_.end()},
            options_.reference,
            backend_,
            options_.basis_storage == BasisStorage::page_locked};
  }
  /// Makes or updates the subspaces from what was collected.
  /// \param step  the optimizer step, for `refresh_due` and the age in reports; at least 0
  /// \throws InvalidArgument for another projector's collector; StateError when nothing was collected, or an objective
  ///         is missing; NonFiniteError when sums overflowed; NumericalError for a method that the caller chose. The
  ///         subspaces are then as they were (but for NumericalError while streaming, which updates them in place).
  void finish_refresh(ReferenceCollector<T, B> collected, Index step);

  /// Projects gradients in place: g <- g - Q Q^T g, or as `options().projection` says.
  /// \param gradients  one tensor per block, in order; without data: left out
  /// \throws StateError before the first refresh; InvalidArgument; NonFiniteError. Nothing is changed then.
  Report project_gradients(std::span<const TensorView> gradients, Index step = -1) const {
    return project(gradients, Direction::gradient, step);
  }
  /// What `project_gradients` would do, for a backend that does it in its own time (CudaProjection): views of tensors
  /// and subspaces, valid until the next refresh, and a report without results. \throws StateError, InvalidArgument
  std::pair<std::vector<ProjectionUnit<T>>, Report> prepare_gradients(std::span<const TensorView> gradients) const {
    return prepare(gradients, Direction::gradient, -1);
  }
  /// The same for steps D that an optimizer wants to add to the weights; then <h_r, D'> = 0 whatever it did.
  Report project_steps(std::span<const TensorView> steps, Index step = -1) const {
    return project(steps, Direction::step, step);
  }
  /// Projects steps in a diagonal metric P (one positive tensor per block, such as sqrt(v) + eps of Adam):
  /// D <- D - P^-1 H (H^T P^-1 H)^-1 H^T D, the nearest step in that metric with H^T D = 0. Flat form and mode
  /// orthogonal; structured blocks are projected as by `project_steps`.
  Report project_steps(std::span<const TensorView> steps, std::span<const ConstTensorView> metric,
                       Index step = -1) const;
  /// Projects the step that was taken from `before` (a snapshot, unchanged) to `after` (weights, corrected in place).
  /// Weights from which nothing is to be removed stay bit for bit.
  /// Both without data: left out, so that a caller can go group by group with a snapshot of that group alone.
  Report project_weights(std::span<const ConstTensorView> before, std::span<const TensorView> after,
                         Index step = -1) const {
    return project_weights(before, after, {}, step);
  }
  Report project_weights(std::span<const ConstTensorView> before, std::span<const TensorView> after,
                         std::span<const ConstTensorView> metric, Index step) const;

  /// The subspace of a flat block (or of its group). \throws InvalidArgument for an unknown or structured block, or
  /// where bases are rounded (`stored_subspace`).
  const Subspace<T, B>& subspace(const std::string& block) const { return flat_unit_of(block, false).flat; }
  /// The same where bases are rounded (ProjectorOptions::basis_storage). \throws InvalidArgument where they are not.
  const StoredSubspace<T, B>& stored_subspace(const std::string& block) const {
    return flat_unit_of(block, true).stored;
  }
  /// The subspace of one side of a structured block. \throws InvalidArgument where there is none.
  const Subspace<T, B>& subspace(const std::string& block, Side side) const;

 private:
  friend struct detail::StateAccess<T, B>;
  using Unit = detail::Unit<T, B>;
  using Change = typename Subspace<T, B>::Change;

  void check_tensors(std::span<const ConstTensorView> tensors, const char* what) const;
  void check_finite(std::span<const ConstTensorView> tensors, const char* what) const;
  void check_metric(std::span<const TensorView> steps, std::span<const ConstTensorView> metric) const;
  std::vector<ProjectionUnit<T>> active_units(std::span<const TensorView> tensors,
                                              std::span<const ConstTensorView> origins, Direction direction,
                                              Report& report) const;
  std::pair<std::vector<ProjectionUnit<T>>, Report> prepare(std::span<const TensorView> tensors, Direction direction,
                                                            Index step) const;
  Report project(std::span<const TensorView> tensors, Direction direction, Index step) const;
  ProjectionResult correct_in_metric(const Unit& unit, std::span<const ConstTensorView> before,
                                     std::span<const TensorView> after, std::span<const ConstTensorView> metric) const;
  ProjectionResult project_in_metric(const Unit& unit, std::span<const TensorView> steps,
                                     std::span<const ConstTensorView> metric) const;
  /// What a refresh has made for one unit.
  struct Fresh {
    std::optional<Subspace<T, B>> flat;
    StoredSubspace<T, B> stored;
    Subspace<T, B> input, output;
  };
  void check_collected(const ReferenceCollector<T, B>& collected) const;
  /// Whether a refresh updates the subspaces that are there.
  bool streams() const { return options_.policy == RefreshPolicy::streaming && ready(); }
  std::optional<Change> change_of(const Unit& unit, Subspace<T, B>& flat, typename ReferenceCollector<T, B>::Sums& sums,
                                  const std::vector<double>& weights) const;
  Subspace<T, B>& start(Unit& unit, typename ReferenceCollector<T, B>::Sums& sums, Fresh& fresh) const;
  void finish_flat(ReferenceCollector<T, B>& collected, std::vector<Fresh>& fresh);
  void absorb_sides(std::vector<typename ReferenceCollector<T, B>::Sums>& sums) const;
  void finish_sides(const std::vector<typename ReferenceCollector<T, B>::Sums>& sums, std::vector<Fresh>& fresh) const;
  const Unit& unit_of(const std::string& block, Form form) const;
  const Unit& flat_unit_of(const std::string& block, bool stored) const;
  Report::Entry entry(const Unit& unit, ProjectionResult result) const {
    return {unit.name, unit.form, unit.rank(), std::move(result)};
  }
  Index age(Index step) const { return step < 0 || !ready() ? -1 : step - last_refresh_; }

  std::vector<BlockSpec> blocks_;
  ProjectorOptions options_;
  B backend_;
  std::vector<Unit> units_;
  Index last_refresh_ = -1;
};

}  // namespace ogpsa

#include "ogpsa/projector_impl.hpp"
#include "ogpsa/projector_refresh.hpp"
