#pragma once

#include "ogpsa/torch/projector.hpp"

/// \file
/// Definitions of the members of BasicGradientProjector.

namespace ogpsa::torch {

template <class T, class B>
bool BasicGradientProjector<T, B>::needs_gradients() const {
  const bool from_inputs = options_.reference.structured.source == MomentSource::inputs;
  return std::any_of(blocks().begin(), blocks().end(),
                     [&](const BlockSpec& block) { return block.form != Form::input || !from_inputs; });
}

template <class T, class B>
void BasicGradientProjector<T, B>::note_without_gradient(const std::vector<bool>& has_gradient,
                                                         const std::string& reason) {
  without_gradient_.clear();
  for (std::size_t b = 0; b < blocks().size(); ++b) {
    if (!has_gradient[b]) without_gradient_.push_back({blocks()[b].name, reason});
  }
}

template <class T, class B>
void BasicGradientProjector<T, B>::refresh(const std::vector<Objective>& objectives, Index step) {
  if (collector_) throw StateError("ogpsa: refresh was called from a closure that refresh itself runs");
  std::vector<Tensor> parameters = module_ ? module_->parameters() : std::vector<Tensor>{};
  for (const auto& item : all_) parameters.push_back(item.second);
  struct Finally {
    std::optional<ReferenceCollector<T, B>>& collector;
    ~Finally() { collector.reset(); }
  } finally{collector_};
  std::vector<bool> used(blocks().size(), true);
  {
    const detail::TrainingState kept(parameters, module_);
    const bool gradients = needs_gradients();
    const ::torch::AutoGradMode mode(gradients);
    collector_.emplace(core_.begin_refresh());
    observed_.clear();
    used = detail::collect(*collector_, objectives, selection_.parameters, gradients, device());
    if (!gradients) used.assign(used.size(), true);
  }
  check_observed();
  if (step >= 0) step_ = step;
  core_.finish_refresh(std::move(*collector_), std::max<Index>(step_, 0));
  note_without_gradient(used, "no reference loss depends on it");
}

template <class T, class B>
void BasicGradientProjector<T, B>::check_observed() const {
  if (options_.reference.structured.source != MomentSource::inputs) return;
  for (const auto& block : blocks()) {
    if ((block.form != Form::input && block.form != Form::both) || observed_.count(block.name) > 0) continue;
    throw StateError("ogpsa: block '" + block.name + "' saw no inputs during refresh; call observe_inputs(\"" +
                     block.name + "\", x) in the module's forward, or take its subspace from gradients " +
                     "(StructuredOptions::source)");
  }
}

template <class T, class B>
void BasicGradientProjector<T, B>::observe_inputs(const std::string& block, const Tensor& inputs) {
  if (!collector_ || options_.reference.structured.source != MomentSource::inputs) return;
  const auto& specs = blocks();
  const auto spec = std::find_if(specs.begin(), specs.end(), [&](const BlockSpec& b) { return b.name == block; });
  if (spec == specs.end()) {
    const bool known = std::any_of(all_.begin(), all_.end(), [&](const auto& item) { return item.first == block; });
    if (known) return;
    throw InvalidArgument("ogpsa: observe_inputs: there is no parameter '" + block + "'; give the name of a weight");
  }
  if (spec->form != Form::input && spec->form != Form::both) return;
  if (!inputs.defined() || inputs.dim() < 1 || inputs.size(-1) != spec->cols) {
    throw InvalidArgument("ogpsa: observe_inputs: block '" + block + "' has inputs of " + std::to_string(spec->cols) +
                          " elements, but the tensor's last dimension has " +
                          (inputs.defined() && inputs.dim() > 0 ? std::to_string(inputs.size(-1)) : "none"));
  }
  const Tensor rows = inputs.detach().reshape({-1, spec->cols}).contiguous();
  if (rows.size(0) == 0) return;
  const std::string what = "the inputs of '" + block + "'";
  check_tensor(rows, what, device());
  collector_->add_inputs(block, ConstTensorView{rows.data_ptr(), storage_type(rows, what), rows.size(0), spec->cols});
  observed_.insert(block);
}

template <class T, class B>
std::vector<bool> BasicGradientProjector<T, B>::has_gradient() const {
  std::vector<bool> result;
  for (const auto& p : selection_.parameters) {
    result.push_back(
        std::any_of(p.leaves.begin(), p.leaves.end(), [](const Tensor& leaf) { return leaf.grad().defined(); }));
  }
  return result;
}

template <class T, class B>
void BasicGradientProjector<T, B>::check_gradients(const std::vector<std::size_t>& blocks) const {
  for (const std::size_t b : blocks) {
    const auto& p = selection_.parameters[b];
    for (const auto& leaf : p.leaves) {
      if (!leaf.grad().defined()) continue;
      const std::string what = "the gradient of '" + p.name + "'";
      check_tensor(leaf.grad(), what, device());
      const detail::Contiguous gradient(leaf.grad());
      const Index bad = core_.backend().first_non_finite(view(gradient.memory(), what, device()));
      if (bad < 0) continue;
      throw NonFiniteError("ogpsa: block '" + p.name + "': gradient element " + std::to_string(bad) +
                           " is NaN or infinite; nothing was changed. Skip this step, or lower the learning rate or " +
                           "the loss scale");
    }
  }
}

/// True when the gradients of a unit can be viewed as they lie.
template <class T, class B>
bool BasicGradientProjector<T, B>::lies_contiguous(const std::vector<std::size_t>& unit) const {
  std::size_t defined = 0;
  for (const std::size_t b : unit) {
    const auto& leaves = selection_.parameters[b].leaves;
    const auto& gradient = leaves.front().grad();
    if (leaves.size() > 1 || (gradient.defined() && !gradient.is_contiguous())) return false;
    defined += gradient.defined();
  }
  return defined == 0 || defined == unit.size();
}

/// Projects the gradients of one unit, through contiguous copies where they need one. Within a group an undefined
/// gradient counts as zero, and gets what the group's constraint asks of it.
template <class T, class B>
Report BasicGradientProjector<T, B>::project_unit(const std::vector<std::size_t>& unit, std::size_t leaf) const {
  std::vector<TensorView> views(blocks().size());
  std::vector<detail::Contiguous> gradients;
  std::vector<std::pair<Tensor, Tensor>> added;  // parameter, gradient
  for (const std::size_t b : unit) {
    const auto& p = selection_.parameters[b];
    if (leaf >= p.leaves.size()) continue;
    Tensor gradient = p.leaves[leaf].grad();
    if (!gradient.defined()) {
      if (unit.size() == 1 || !p.leaves[leaf].requires_grad()) continue;
      gradient = ::torch::zeros_like(p.leaves[leaf].detach(), at::MemoryFormat::Contiguous);
      added.emplace_back(p.leaves[leaf], gradient);
    }
    gradients.emplace_back(gradient);
    views[b] = view(gradients.back().memory(), "the gradient of '" + p.name + "'", device());
  }
  Report report = core_.project_gradients(views, step_);
  for (const auto& g : gradients) g.write_back();
  for (auto& [parameter, gradient] : added) parameter.mutable_grad() = gradient;
  return report;
}

template <class T, class B>
const Report& BasicGradientProjector<T, B>::project_gradients() {
  require_ready();
  // Units whose gradients lie contiguously in memory go in one call, which checks all of them before it changes one;
  // the others go one by one, checked before that call.
  std::vector<std::vector<std::size_t>> together, alone;
  for (const auto& unit : core_.groups()) (lies_contiguous(unit) ? together : alone).push_back(unit);
  for (const auto& unit : alone) check_gradients(unit);
  const auto defined = has_gradient();
  std::vector<TensorView> views(blocks().size());
  for (const auto& unit : together) {
    for (const std::size_t b : unit) {
      const auto& p = selection_.parameters[b];
      if (defined[b]) views[b] = view(p.tensor().grad(), "the gradient of '" + p.name + "'", device());
    }
  }
  report_ = core_.project_gradients(views, step_);
  for (const auto& unit : alone) {
    std::size_t leaves = 0;
    for (const std::size_t b : unit) leaves = std::max(leaves, selection_.parameters[b].leaves.size());
    for (std::size_t leaf = 0; leaf < leaves; ++leaf) {
      auto report = project_unit(unit, leaf);
      report_.entries.insert(report_.entries.end(), report.entries.begin(), report.entries.end());
    }
  }
  note_without_gradient(defined, "its gradient is undefined");
  return report_;
}

template <class T, class B>
Tensor BasicGradientProjector<T, B>::step(::torch::optim::Optimizer& optimizer,
                                          ::torch::optim::Optimizer::LossClosure closure) {
  require_ready();
  if (options_.metric == StepMetric::optimizer && !detail::has_metric(optimizer)) {
    throw InvalidArgument("ogpsa: option metric is optimizer, but only Adam and AdamW have one; use euclidean");
  }
  detail::ProjectedStep<T, B> projected(core_, selection_.parameters, optimizer, options_.metric, step_);
  const bool in_batches = detail::steps_per_parameter(optimizer);
  Tensor loss;
  if (in_batches && closure) {
    const ::torch::AutoGradMode enable(true);
    loss = closure();
  }
  if (in_batches || !closure) {
    for (const auto& unit : core_.groups()) check_gradients(unit);
  }
  const auto defined = has_gradient();
  if (in_batches) {
    report_ = projected.in_batches();
  } else {
    std::tie(loss, report_) = projected.at_once(closure);
  }
  note_without_gradient(defined, "its gradient is undefined");
  return loss;
}

}  // namespace ogpsa::torch
