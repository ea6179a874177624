#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/projection_batch.hpp"
#include "ogpsa/stored_subspace.hpp"

/// \file
/// Projection of any number of tensors, all through `project_units`.

namespace ogpsa {

/// Projects many units in place: each as soon as it is measured where nothing forbids it (see could_fuse); else
/// all coefficients first, one sum over the ranks, then all changes. \returns one result per unit \throws
/// NonFiniteError (block, index) and InvalidArgument, both before anything is changed.
template <class T, class B>
requires Backend<B, T> std::vector<ProjectionResult> project_units(const B& backend,
                                                                   std::span<const ProjectionUnit<T>> units) {
  for (const auto& unit : units) detail::check_mode(unit);
  detail::ProjectionBatch<T> batch(units);
  if (batch.check(backend, units)) {
    batch.fuse(backend, units);
  } else {
    batch.measure(backend, units);
    batch.all_reduce(backend);
    batch.apply_shared(backend, units);
  }
  batch.apply_sides(backend, units);
  batch.take_roots();
  return std::move(batch.results);
}

namespace detail {

/// What projects by a flat subspace, full or rounded; without pieces.
template <class T, class B, template <class, class> class Flat>
ProjectionUnit<T> flat_unit(const Flat<T, B>& subspace, const ProjectionOptions& options, Direction direction,
                            const std::string& name) {
  ProjectionUnit<T> unit{.name = name,
                         .options = options,
                         .direction = direction,
                         .objectives = &subspace.objectives(),
                         .objective_norms = &subspace.objective_norms()};
  if constexpr (requires { subspace.normalizer(); }) {
    unit.normalizer = subspace.normalizer();
    unit.normalized_objectives = subspace.objectives();
  }
  return unit;
}

}  // namespace detail

/// Projects one gradient (any storage type, n elements) in place against a flat subspace of R^n; the arithmetic is in
/// `T`. A zero-rank subspace changes nothing (mode `inside`: it leaves nothing).
/// \param subspace  Subspace, or StoredSubspace: then the constraint holds, as exactly, for the span of the rounded
///                  basis
/// \throws InvalidArgument for a wrong size or option; NonFiniteError before anything is changed.
template <class T, class B, template <class, class> class Flat>
requires is_flat_subspace<Flat<T, B>> ProjectionResult project(TensorView gradient, const Flat<T, B>& subspace,
                                                               const ProjectionOptions& options = {},
                                                               Direction direction = Direction::gradient,
                                                               const std::string& name = "gradient") {
  if (gradient.size() != subspace.dimension()) {
    throw InvalidArgument(detail::text({"ogpsa: block '", name, "' has ", gradient.size(),
                                        " elements, but its subspace lies in R^", subspace.dimension()}));
  }
  auto unit = detail::flat_unit(subspace, options, direction, name);
  unit.pieces = {{gradient, gradient.size(), 1, subspace.basis(), {}, {}}};
  return project_units(subspace.backend(), std::span<const ProjectionUnit<T>>(&unit, 1)).front();
}

/// The same for an Eigen vector or matrix.
template <class Derived, class T, class B, template <class, class> class Flat>
requires is_flat_subspace<Flat<T, B>> ProjectionResult project(Eigen::PlainObjectBase<Derived>& gradient,
                                                               const Flat<T, B>& subspace,
                                                               const ProjectionOptions& options = {}) {
  return project(view(gradient), subspace, options);
}

/// The same for contiguous memory.
template <class S, class T, class B, template <class, class> class Flat>
requires is_storage_type<S> && is_flat_subspace<Flat<T, B>> ProjectionResult
project(std::span<S> gradient, const Flat<T, B>& subspace, const ProjectionOptions& options = {}) {
  return project(TensorView(gradient), subspace, options);
}

}  // namespace ogpsa
