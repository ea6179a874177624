#pragma once

#include <algorithm>
#include <numeric>

#include "ogpsa/projector.hpp"

/// \file
/// Definitions of the members of Projector that make new subspaces of what was collected.

namespace ogpsa {

template <class T, class B>
void Projector<T, B>::finish_refresh(ReferenceCollector<T, B> collected, Index step) {
  if (step < 0) throw InvalidArgument(detail::text({"ogpsa: finish_refresh at step ", step, "; count from 0"}));
  for (auto& sums : collected.sums_) {
    sums.input.settle();
    sums.output.settle();
  }
  check_collected(collected);
  // New subspaces first, then they all take their place: a failure leaves the old ones. (A stream is updated in place.)
  std::vector<Fresh> fresh(units_.size());
  finish_flat(collected, fresh);
  if (options_.policy == RefreshPolicy::streaming) absorb_sides(collected.sums_);
  finish_sides(collected.sums_, fresh);
  const bool keep_factors = options_.policy == RefreshPolicy::streaming;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    auto& unit = units_[u];
    auto& sums = collected.sums_[u];
    if (fresh[u].flat) unit.flat = std::move(*fresh[u].flat);
    if (unit.is_stored()) unit.stored = std::move(fresh[u].stored);
    unit.input = std::move(fresh[u].input);
    unit.output = std::move(fresh[u].output);
    unit.input_scale = sums.input.scale();
    unit.output_scale = sums.output.scale();
    if (keep_factors) unit.input_factor = std::move(sums.input);
    if (keep_factors) unit.output_factor = std::move(sums.output);
  }
  last_refresh_ = step;
}

/// \throws InvalidArgument, StateError or NonFiniteError for what cannot be finished.
template <class T, class B>
void Projector<T, B>::check_collected(const ReferenceCollector<T, B>& collected) const {
  const auto same = [](const detail::UnitShape& a, const detail::UnitShape& b) {
    return a.name == b.name && a.form == b.form && a.dimension == b.dimension && a.blocks == b.blocks;
  };
  if (!std::equal(units_.begin(), units_.end(), collected.units_.begin(), collected.units_.end(), same) ||
      collected.sums_.size() != units_.size()) {
    throw InvalidArgument(
        "ogpsa: finish_refresh with a collector of another projector, or one that was finished before; use "
        "begin_refresh of this one");
  }
  const bool any_inputs =
      std::any_of(collected.sums_.begin(), collected.sums_.end(), [](const auto& sums) { return !sums.input.empty(); });
  if (collected.weights_.empty() && !any_inputs) {
    throw StateError("ogpsa: finish_refresh without a reference gradient; call add for every objective first");
  }
  for (std::size_t r = 0; r < collected.weights_.size(); ++r) {
    if (collected.weights_[r] > 0) continue;
    throw StateError(detail::text({"ogpsa: objective ", r, " has no reference gradient, but objective ",
                                   collected.weights_.size() - 1, " has; add at least one batch for each"}));
  }
  std::vector<ConstTensorView> flat;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const auto& sums = collected.sums_[u];
    if (!detail::is_finite(sums.input.trace()) || !detail::is_finite(sums.output.trace())) {
      throw NonFiniteError(
          detail::text({"ogpsa: block '", units_[u].name,
                        "': the second moment of its reference gradients or inputs overflowed; nothing was changed"}));
    }
    flat.push_back({sums.flat.data(), dtype_of<T>(), 1, sums.flat.rows() * sums.flat.cols()});
  }
  const Index overflowed = detail::first_tensor_beyond<T>(backend_, flat, detail::kNotFinite);
  if (overflowed < 0) return;
  const auto& unit = units_[static_cast<std::size_t>(overflowed)];
  const Entry bad = backend_.first_non_finite(collected.sums_[static_cast<std::size_t>(overflowed)].flat.view());
  std::size_t block = 0;  // of the unit, in which the row lies
  while (block + 1 < unit.offsets.size() && unit.offsets[block + 1] <= bad.row) ++block;
  throw NonFiniteError(detail::text(
      {"ogpsa: block '", blocks_[unit.blocks[block]].name, "': the sum of reference gradients of objective ", bad.col,
       " overflowed at element ", bad.row - unit.offsets[block], "; nothing was changed"}));
}

/// What makes `flat` the new subspace of a unit; nothing where it is that already.
template <class T, class B>
auto Projector<T, B>::change_of(const Unit& unit, Subspace<T, B>& flat, typename ReferenceCollector<T, B>::Sums& sums,
                                const std::vector<double>& weights) const -> std::optional<Change> {
  const auto& reference = options_.reference;
  const double forgetting = options_.forgetting;
  if (reference.collect == Collect::batch) {
    if (!streams()) {
      flat = std::move(sums.batches);
      return std::nullopt;
    }
    auto columns = backend_.template matrix<T>(flat.dimension(), sums.batches.rank());
    backend_.copy(sums.batches.basis(), columns.view());
    backend_.scale_columns(columns.view(), detail::values(sums.batches.singular_values()));
    const EstimateOptions estimate{reference.method, false, unit.name};
    return Change{&flat, std::move(columns), false, forgetting, reference.rank, estimate, {}};
  }
  sums.flat.resize_columns(static_cast<Index>(weights.size()));
  std::vector<double> factors;
  for (const double weight : weights) factors.push_back(1 / weight);
  backend_.scale_columns(sums.flat.view(), std::span<const double>(factors));
  const EstimateOptions estimate{reference.method, reference.normalize, unit.name};
  if (!streams()) return Change{&flat, std::move(sums.flat), true, 1.0, reference.rank, estimate, {}};
  std::vector<Index> objectives(weights.size());
  std::iota(objectives.begin(), objectives.end(), Index{0});
  return Change{&flat, std::move(sums.flat), false, forgetting, reference.rank, estimate, objectives};
}

/// Where the new subspace of a flat unit is made: in the place of the old one where that is updated, or as `fresh`. One
/// that is not kept in full, and where the backend computes, is updated as a copy, which is: where something fails, the
/// one that is there is as and where it was, and each refresh of a rounded one adds one rounding.
template <class T, class B>
Subspace<T, B>& Projector<T, B>::start(Unit& unit, typename ReferenceCollector<T, B>::Sums& sums, Fresh& fresh) const {
  if (options_.basis_storage == BasisStorage::full && streams()) return unit.flat;
  if (streams()) {
    fresh.flat = unit.is_stored() ? unit.stored.restore() : unit.flat;
  } else {
    fresh.flat.emplace(unit.dimension, backend_);
  }
  fresh.flat->keep_on_host(false);
  backend_.keep_on_host(sums.flat, false);
  sums.batches.keep_on_host(false);
  return *fresh.flat;
}

/// The new subspaces of flat units.
template <class T, class B>
void Projector<T, B>::finish_flat(ReferenceCollector<T, B>& collected, std::vector<Fresh>& fresh) {
  const auto sizes = detail::flat_sizes(units_);
  backend_.for_batches(std::span<const Index>(sizes), [&](Index first, Index last) {
    std::vector<Change> changes;
    for (auto u = static_cast<std::size_t>(first); u < static_cast<std::size_t>(last); ++u) {
      if (units_[u].form != Form::flat) continue;
      auto& sums = collected.sums_[u];
      auto change = change_of(units_[u], start(units_[u], sums, fresh[u]), sums, collected.weights_);
      if (change) changes.push_back(std::move(*change));
    }
    Subspace<T, B>::apply(changes);
    for (auto u = static_cast<std::size_t>(first); u < static_cast<std::size_t>(last); ++u) {
      auto& flat = fresh[u].flat;
      if (!flat) continue;
      if (options_.basis_storage == BasisStorage::page_locked) flat->keep_on_host(true);
      if (!units_[u].is_stored()) continue;
      fresh[u].stored = {*flat, options_.basis_storage};
      flat.reset();
    }
  });
}

/// Adds what the sides have seen before to what they have seen now.
template <class T, class B>
void Projector<T, B>::absorb_sides(std::vector<typename ReferenceCollector<T, B>::Sums>& sums) const {
  backend_.for_each(static_cast<Index>(units_.size()), [&](Index i) {
    const auto u = static_cast<std::size_t>(i);
    const auto& unit = units_[u];
    if (unit.input_factor.dimension() > 0) sums[u].input.absorb(unit.input_factor, options_.forgetting);
    if (unit.output_factor.dimension() > 0) sums[u].output.absorb(unit.output_factor, options_.forgetting);
  });
}

/// The new subspaces of the sides of all units.
template <class T, class B>
void Projector<T, B>::finish_sides(const std::vector<typename ReferenceCollector<T, B>::Sums>& sums,
                                   std::vector<Fresh>& fresh) const {
  std::vector<const KroneckerFactor<T, B>*> factors;
  std::vector<Subspace<T, B>*> sides;
  const auto add = [&](const KroneckerFactor<T, B>& factor, Subspace<T, B>& side) {
    factors.push_back(&factor);
    sides.push_back(&side);
  };
  for (std::size_t u = 0; u < units_.size(); ++u) {
    if (units_[u].has_input()) add(sums[u].input, fresh[u].input);
    if (units_[u].has_output()) add(sums[u].output, fresh[u].output);
  }
  auto found = KroneckerFactor<T, B>::leading(factors, options_.reference.structured.rank, backend_);
  for (std::size_t i = 0; i < sides.size(); ++i) *sides[i] = std::move(found[i]);
}

}  // namespace ogpsa
