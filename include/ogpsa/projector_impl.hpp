#pragma once

#include <algorithm>
#include <limits>

#include "ogpsa/projector.hpp"

/// \file
/// Definitions of the members of Projector, but for those of its refresh.

namespace ogpsa {

template <class T, class B>
Projector<T, B>::Projector(std::vector<BlockSpec> blocks, ProjectorOptions options, B backend)
    : blocks_(std::move(blocks)), options_(std::move(options)), backend_(std::move(backend)) {
  detail::check_blocks(blocks_);
  check(options_.projection);
  check(options_.reference.rank);
  check(options_.reference.structured);
  detail::check_storage<T>(options_.basis_storage);
  if (options_.refresh_every < 1) {
    throw InvalidArgument(detail::text({"ogpsa: refresh_every is ", options_.refresh_every, "; use at least 1"}));
  }
  if (!detail::is_share(options_.forgetting)) {
    throw InvalidArgument(detail::text({"ogpsa: forgetting is ", options_.forgetting, "; it must be in (0, 1]"}));
  }
  const auto& rank = options_.reference.rank;
  if (options_.policy == RefreshPolicy::streaming && rank.max_rank == 0 && rank.energy == 1) {
    throw InvalidArgument(
        "ogpsa: a streaming subspace without a limit grows at every refresh; set "
        "reference.rank.max_rank (8, say) or reference.rank.energy below 1");
  }
  for (auto& shape : detail::make_units(blocks_, options_.granularity)) {
    Unit unit{std::move(shape)};
    const auto& first = blocks_[unit.blocks.front()];
    const bool stored = detail::is_rounded(options_.basis_storage);
    if (unit.form == Form::flat) unit.flat = Subspace<T, B>(unit.dimension, backend_);
    if (unit.form == Form::flat && stored) unit.stored = StoredSubspace<T, B>(unit.flat, options_.basis_storage);
    if (unit.has_input()) unit.input = Subspace<T, B>(first.cols, backend_);
    if (unit.has_output()) unit.output = Subspace<T, B>(first.rows, backend_);
    units_.push_back(std::move(unit));
  }
}

template <class T, class B>
void Projector<T, B>::check_tensors(std::span<const ConstTensorView> tensors, const char* what) const {
  if (tensors.size() != blocks_.size()) {
    throw InvalidArgument(detail::text({"ogpsa: ", tensors.size(), " ", what, "s for ", blocks_.size(),
                                        " blocks; give one per block, in order (without data: left "
                                        "out)"}));
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto& block = blocks_[i];
    const auto& t = tensors[i];
    if (t.data == nullptr) continue;
    if (t.rows != block.rows || t.cols != block.cols || t.layout != block.layout) {
      throw InvalidArgument(detail::text(
          {"ogpsa: block '", block.name, "' is ", detail::size_text(block.rows, block.cols), ", but its ", what, " is ",
           detail::size_text(t.rows, t.cols), t.layout != block.layout ? " in another layout" : ""}));
    }
  }
}

template <class T, class B>
std::vector<ProjectionUnit<T>> Projector<T, B>::active_units(std::span<const TensorView> tensors,
                                                             std::span<const ConstTensorView> origins,
                                                             Direction direction, Report& report) const {
  if (!ready()) {
    throw StateError("ogpsa: there is no subspace to project by yet; finish a refresh first (see refresh_due)");
  }
  std::vector<ProjectionUnit<T>> active;
  for (const auto& unit : units_) {
    auto projection = detail::projection_unit(unit, blocks_, tensors, origins, options_.projection,
                                              options_.reference.structured.damping, direction);
    if (projection.pieces.empty()) continue;
    if (!origins.empty()) projection.options.known_finite = false;  // that is said of gradients, not of weights
    detail::check_mode(projection);
    active.push_back(std::move(projection));
    report.entries.push_back(entry(unit, {}));
  }
  return active;
}

template <class T, class B>
std::pair<std::vector<ProjectionUnit<T>>, Report> Projector<T, B>::prepare(std::span<const TensorView> tensors,
                                                                           Direction direction, Index step) const {
  check_tensors({std::vector<ConstTensorView>(tensors.begin(), tensors.end())},
                direction == Direction::gradient ? "gradient" : "step");
  Report report{step, age(step), {}};
  auto active = active_units(tensors, {}, direction, report);
  return {std::move(active), std::move(report)};
}

template <class T, class B>
Report Projector<T, B>::project(std::span<const TensorView> tensors, Direction direction, Index step) const {
  auto [active, report] = prepare(tensors, direction, step);
  auto results = project_units(backend_, std::span<const ProjectionUnit<T>>(active));
  for (std::size_t i = 0; i < results.size(); ++i) report.entries[i].result = std::move(results[i]);
  return report;
}

/// \throws NonFiniteError for a value that is not finite, or so large that the arithmetic could overflow.
template <class T, class B>
void Projector<T, B>::check_finite(std::span<const ConstTensorView> tensors, const char* what) const {
  const Index bad = detail::first_tensor_beyond<T>(backend_, tensors, detail::kLargestExponent<T>);
  if (bad < 0) return;
  detail::check_values<T>(backend_, tensors[static_cast<std::size_t>(bad)], blocks_[static_cast<std::size_t>(bad)].name,
                          what);
}

template <class T, class B>
void Projector<T, B>::check_metric(std::span<const TensorView> steps, std::span<const ConstTensorView> metric) const {
  if (options_.projection.mode != ProjectionMode::orthogonal) {
    throw InvalidArgument("ogpsa: a projection in a metric needs mode orthogonal");
  }
  check_tensors(metric, "metric");
  check_finite(metric, "metric");
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (steps[i].data == nullptr || blocks_[i].form != Form::flat) continue;
    if (metric[i].data == nullptr) {
      throw InvalidArgument(detail::text({"ogpsa: block '", blocks_[i].name, "' has a step but no metric"}));
    }
    const Index bad = backend_.first_outside(metric[i], static_cast<double>(std::numeric_limits<T>::min()),
                                             static_cast<double>(std::numeric_limits<T>::max()));
    if (bad < 0) continue;
    throw InvalidArgument(detail::text({"ogpsa: block '", blocks_[i].name, "': metric element ", bad,
                                        " is not positive, or out of the range of the arithmetic; add Adam's eps"}));
  }
}

template <class T, class B>
Report Projector<T, B>::project_steps(std::span<const TensorView> steps, std::span<const ConstTensorView> metric,
                                      Index step) const {
  const std::vector<ConstTensorView> views(steps.begin(), steps.end());
  check_tensors(views, "step");
  check_finite(views, "step");
  check_metric(steps, metric);
  std::vector<TensorView> structured(steps.size());
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (blocks_[i].form != Form::flat) structured[i] = steps[i];
  }
  Report report = project(structured, Direction::step, step);
  for (const auto& unit : units_) {
    if (unit.form != Form::flat) continue;
    const bool given =
        std::any_of(unit.blocks.begin(), unit.blocks.end(), [&](std::size_t i) { return steps[i].data != nullptr; });
    if (given) report.entries.push_back(entry(unit, project_in_metric(unit, steps, metric)));
  }
  return report;
}

template <class T, class B>
ProjectionResult Projector<T, B>::project_in_metric(const Unit& unit, std::span<const TensorView> steps,
                                                    std::span<const ConstTensorView> metric) const {
  const auto euclidean = detail::projection_unit(unit, blocks_, steps, {}, options_.projection, 0.0, Direction::step);
  std::vector<PieceCoefficients> parts;
  const auto inner = [&] {
    backend_.coefficients(std::span<const ProjectionPiece<T>>(euclidean.pieces), parts);
    PieceCoefficients sum{detail::zeros(unit.rank(), 1), 0};
    for (const auto& part : parts) {
      detail::add_scaled(detail::values(sum.inner), 1, detail::values(part.inner));
      sum.squared_norm += part.squared_norm;
    }
    std::vector<double> buffer(sum.inner.data(), sum.inner.data() + sum.inner.size());
    buffer.push_back(sum.squared_norm);
    backend_.all_reduce(buffer);
    std::copy(buffer.begin(), buffer.end() - 1, sum.inner.data());
    sum.squared_norm = buffer.back();
    return sum;
  };
  PieceCoefficients now = inner();
  const double before = std::sqrt(now.squared_norm);
  ProjectionResult result{before, before, 0, {}};
  detail::normalize(euclidean, now.inner, result);
  result.norm_inside = std::sqrt(result.norm_inside);
  if (unit.rank() == 0) return result;
  // Z = P^-1 Q, one unit at a time.
  auto scaled = backend_.template matrix<T>(unit.dimension, unit.rank());
  backend_.decode(unit.flat_basis(), scaled.view());
  auto pieces = euclidean.pieces;
  for (std::size_t i = 0, p = 0; i < unit.blocks.size(); ++i) {
    const std::size_t block = unit.blocks[i];
    const auto rows = scaled.view().row_range(unit.offsets[i], blocks_[block].size());
    if (steps[block].data == nullptr) {  // only the rows that can move count
      backend_.scale_columns(rows, std::vector<double>(static_cast<std::size_t>(rows.cols), 0.0));
      continue;
    }
    backend_.divide_rows(rows, metric[block]);
    pieces[p++].left = rows;
  }
  const Eigen::MatrixXd gram = backend_.gram(unit.flat_basis(), BasisView<T>(scaled.view()));
  Eigen::VectorXd norms_inverse = detail::column_norms(gram);
  const detail::Column scale = detail::values(norms_inverse);
  for (double& value : scale) value = value > 0 ? 1 / value : 0;
  const Eigen::MatrixXd equilibrated = detail::scaled_rows(scale, detail::scaled_columns(gram, scale));
  // A badly scaled metric may need a second round before Q^T D is zero to rounding.
  const double target = 4 * detail::unit_roundoff<T>() * result.norm_before;
  std::vector<PieceNorms> norms;
  for (int round = 0; round < 3 && detail::norm(detail::values(now.inner)) > target; ++round) {
    Eigen::MatrixXd y = detail::scaled_rows(scale, now.inner);
    y = detail::scaled_rows(scale, detail::least_squares(equilibrated, detail::to_vector(detail::values(y))));
    const double alpha = round == 0 ? options_.projection.alpha : 1.0;
    const std::vector<PieceChange> changes(pieces.size(), PieceChange{1.0, alpha * y});
    backend_.change(std::span<const ProjectionPiece<T>>(pieces), std::span<const PieceChange>(changes), norms);
    now = inner();
    if (options_.projection.alpha != 1.0) break;
  }
  result.norm_after = std::sqrt(now.squared_norm);
  return result;
}

template <class T, class B>
Report Projector<T, B>::project_weights(std::span<const ConstTensorView> before, std::span<const TensorView> after,
                                        std::span<const ConstTensorView> metric, Index step) const {
  check_tensors(before, "snapshot");
  check_tensors({std::vector<ConstTensorView>(after.begin(), after.end())}, "weight");
  std::vector<TensorView> direct(after.begin(), after.end()), scaled(after.size());
  for (std::size_t i = 0; i < after.size(); ++i) {
    if ((after[i].data == nullptr) != (before[i].data == nullptr) || after[i].dtype != before[i].dtype) {
      throw InvalidArgument(detail::text(
          {"ogpsa: block '", blocks_[i].name, "': weights and their snapshot must both be given, in one data type"}));
    }
    if (!metric.empty() && blocks_[i].form == Form::flat) std::swap(direct[i], scaled[i]);
  }
  // Whatever can go wrong does so before the weights are touched.
  if (!metric.empty()) {
    check_finite(before, "snapshot");
    check_finite({std::vector<ConstTensorView>(scaled.begin(), scaled.end())}, "weight after the step");
    check_metric(scaled, metric);
  }
  Report report{step, age(step), {}};
  const auto active = active_units(direct, before, Direction::step, report);
  auto results = project_units(backend_, std::span<const ProjectionUnit<T>>(active));
  for (std::size_t i = 0; i < results.size(); ++i) report.entries[i].result = std::move(results[i]);
  for (const auto& unit : units_) {
    const bool given =
        std::any_of(unit.blocks.begin(), unit.blocks.end(), [&](std::size_t b) { return scaled[b].data != nullptr; });
    if (given) report.entries.push_back(entry(unit, correct_in_metric(unit, before, scaled, metric)));
  }
  return report;
}

/// Takes two vectors of the unit's size, and Z.
template <class T, class B>
ProjectionResult Projector<T, B>::correct_in_metric(const Unit& unit, std::span<const ConstTensorView> before,
                                                    std::span<const TensorView> after,
                                                    std::span<const ConstTensorView> metric) const {
  auto step = backend_.template matrix<T>(unit.dimension, 1);
  std::vector<TensorView> views(blocks_.size());
  const auto rows = [&](std::size_t i) {
    return step.view().row_range(unit.offsets[i], blocks_[unit.blocks[i]].size());
  };
  for (std::size_t i = 0; i < unit.blocks.size(); ++i) {
    const std::size_t b = unit.blocks[i];
    if (after[b].data == nullptr) continue;
    backend_.load_difference(rows(i), after[b], before[b]);
    views[b] = {rows(i).data, dtype_of<T>(), blocks_[b].rows, blocks_[b].cols, blocks_[b].layout};
  }
  const ProjectionResult result = project_in_metric(unit, views, metric);
  for (std::size_t i = 0; i < unit.blocks.size(); ++i) {
    const std::size_t b = unit.blocks[i];
    if (after[b].data != nullptr) backend_.move(after[b], before[b], MatrixView<const T>(rows(i)));
  }
  return result;
}

template <class T, class B>
const detail::Unit<T, B>& Projector<T, B>::unit_of(const std::string& block, Form form) const {
  for (const auto& unit : units_) {
    for (const std::size_t i : unit.blocks) {
      if (blocks_[i].name != block) continue;
      if ((unit.form == Form::flat) == (form == Form::flat)) return unit;
      throw InvalidArgument(detail::text({"ogpsa: block '", block, "' has the form ", detail::form_name(unit.form)}));
    }
  }
  throw InvalidArgument(detail::text({"ogpsa: there is no block '", block, "'"}));
}

template <class T, class B>
const detail::Unit<T, B>& Projector<T, B>::flat_unit_of(const std::string& block, bool stored) const {
  const auto& unit = unit_of(block, Form::flat);
  if (unit.is_stored() == stored) return unit;
  throw InvalidArgument(detail::text({"ogpsa: the basis of block '", block, "' has basis_storage ",
                                      detail::storage_name(options_.basis_storage), "; use ",
                                      stored ? "subspace" : "stored_subspace", " instead"}));
}

template <class T, class B>
const Subspace<T, B>& Projector<T, B>::subspace(const std::string& block, Side side) const {
  const auto& unit = unit_of(block, Form::both);
  if (side == Side::input ? unit.has_input() : unit.has_output()) return side == Side::input ? unit.input : unit.output;
  throw InvalidArgument(detail::text(
      {"ogpsa: block '", block, "' is not protected on its ", side == Side::input ? "input" : "output", " side"}));
}

}  // namespace ogpsa
