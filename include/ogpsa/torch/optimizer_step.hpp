#pragma once

#include <torch/optim/adagrad.h>
#include <torch/optim/adam.h>
#include <torch/optim/adamw.h>
#include <torch/optim/rmsprop.h>
#include <torch/optim/sgd.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>
#include <vector>

#include "ogpsa/torch/parameters.hpp"

/// \file
/// The step that an optimizer takes, and its projection.

namespace ogpsa::torch::detail {

using ::torch::optim::Optimizer;

/// True for optimizers that treat every parameter on its own and pass over one without a gradient, so that they can be
/// stepped a few blocks at a time. A class derived from one of them may do something else.
inline bool steps_per_parameter(const Optimizer& optimizer) {
  namespace optim = ::torch::optim;
  const std::type_info& type = typeid(optimizer);
  return type == typeid(optim::AdamW) || type == typeid(optim::Adam) || type == typeid(optim::SGD) ||
         type == typeid(optim::RMSprop) || type == typeid(optim::Adagrad);
}

/// Takes the gradients of an optimizer's parameters aside, without a copy, lends some of them back at a time, and puts
/// all of them back in the end.
class GradientsAside {
 public:
  explicit GradientsAside(Optimizer& optimizer) {
    for (auto& group : optimizer.param_groups()) {
      for (auto& p : group.params()) {
        if (p.defined()) kept_.emplace(p.unsafeGetTensorImpl(), Kept{p, {}, false});
      }
    }
    for (auto& item : kept_) std::swap(item.second.gradient, item.second.parameter.mutable_grad());  // cannot throw
  }
  ~GradientsAside() {
    for (auto& item : kept_) item.second.parameter.mutable_grad() = std::move(item.second.gradient);
  }
  GradientsAside(const GradientsAside&) = delete;
  GradientsAside& operator=(const GradientsAside&) = delete;

  /// Gives the gradient back until `take_back`. \returns true when there is one
  bool lend(const Tensor& parameter) {
    const auto found = kept_.find(parameter.unsafeGetTensorImpl());
    if (found == kept_.end()) return false;
    found->second.lent = true;
    parameter.mutable_grad() = found->second.gradient;
    return found->second.gradient.defined();
  }
  void take_back(const Tensor& parameter) {
    if (kept_.count(parameter.unsafeGetTensorImpl()) > 0) parameter.mutable_grad() = Tensor();
  }
  /// Gives back every gradient that was never lent.
  void lend_rest() {
    for (auto& item : kept_) {
      if (!item.second.lent) item.second.parameter.mutable_grad() = item.second.gradient;
    }
  }

 private:
  struct Kept {
    Tensor parameter, gradient;
    bool lent;
  };
  std::map<const void*, Kept> kept_;
};

/// The options of the group that a parameter is in; null when it is in none.
inline const ::torch::optim::OptimizerOptions* options_of(Optimizer& optimizer, const Tensor& parameter) {
  for (auto& group : optimizer.param_groups()) {
    for (const auto& p : group.params()) {
      if (p.is_same(parameter)) return group.has_options() ? &group.options() : &optimizer.defaults();
    }
  }
  return nullptr;
}

/// How an optimizer names the state of a parameter: LibTorch 1.13 by the address as text, later versions by the
/// address.
template <class Key>
Key state_key(const Tensor& parameter) {
  if constexpr (std::is_same_v<Key, std::string>) {
    std::ostringstream text;
    text << parameter.unsafeGetTensorImpl();
    return text.str();
  } else {
    return parameter.unsafeGetTensorImpl();
  }
}

/// The optimizer's state of a parameter; null before its first step.
inline const ::torch::optim::OptimizerParamState* state_of(Optimizer& optimizer, const Tensor& parameter) {
  auto& states = optimizer.state();
  using Key = typename std::decay_t<decltype(states)>::key_type;
  const auto found = states.find(state_key<Key>(parameter));
  return found == states.end() ? nullptr : found->second.get();
}

template <class AdamOptions, class AdamState>
Tensor adam_metric(const ::torch::optim::OptimizerOptions& options, const ::torch::optim::OptimizerParamState& state) {
  const auto& o = static_cast<const AdamOptions&>(options);
  const auto& s = static_cast<const AdamState&>(state);
  const double correction = 1 - std::pow(std::get<1>(o.betas()), static_cast<double>(s.step()));
  const Tensor v = (o.amsgrad() ? s.max_exp_avg_sq() : s.exp_avg_sq()).detach();
  const bool half = v.scalar_type() == ::torch::kHalf || v.scalar_type() == ::torch::kBFloat16;
  return (half ? v.to(::torch::kFloat) : v.clone(at::MemoryFormat::Contiguous))
      .contiguous()
      .div_(correction)
      .sqrt_()
      .add_(o.eps());
}

inline bool has_metric(const Optimizer& optimizer) {
  return typeid(optimizer) == typeid(::torch::optim::Adam) || typeid(optimizer) == typeid(::torch::optim::AdamW);
}

/// sqrt(v / bias correction) + eps of a parameter in Adam or AdamW: its last step was first moment / this, times the
/// learning rate. \returns undefined where the optimizer never stepped it
inline Tensor metric_of(Optimizer& optimizer, const Tensor& parameter) {
  namespace optim = ::torch::optim;
  const auto* options = options_of(optimizer, parameter);
  const auto* state = state_of(optimizer, parameter);
  if (options == nullptr || state == nullptr) return {};
  if (typeid(optimizer) == typeid(optim::Adam)) {
    return adam_metric<optim::AdamOptions, optim::AdamParamState>(*options, *state);
  }
  return adam_metric<optim::AdamWOptions, optim::AdamWParamState>(*options, *state);
}

/// Bytes of weights that are stepped and projected together: enough blocks to keep all threads busy, which one would
/// not.
inline constexpr std::size_t kBatchBytes = std::size_t{32} << 20;

/// One step of an optimizer, projected.
template <class T, class B>
class ProjectedStep {
 public:
  ProjectedStep(const Projector<T, B>& core, const std::vector<Parameter>& parameters, Optimizer& optimizer,
                StepMetric metric, Index step)
      : core_(core), parameters_(parameters), optimizer_(optimizer), metric_(metric), step_(step) {
    before_.resize(parameters.size());
    report_.step = step;
    for (const auto& p : parameters) {
      held_.push_back(std::any_of(p.leaves.begin(), p.leaves.end(),
                                  [&](const Tensor& leaf) { return options_of(optimizer, leaf) != nullptr; }));
    }
  }

  /// For an optimizer that `steps_per_parameter`: beside the model there are snapshots of one batch of units.
  Report in_batches() {
    GradientsAside aside(optimizer_);
    std::vector<std::size_t> batch;
    std::size_t bytes = 0;
    const auto finish_batch = [&] {
      if (batch.empty()) return;
      optimizer_.step();
      for (const std::size_t b : batch) {
        for (const auto& leaf : parameters_[b].leaves) aside.take_back(leaf);
      }
      project(batch);
      for (const std::size_t b : batch) before_[b] = Tensor();
      batch.clear();
      bytes = 0;
    };
    for (const auto& unit : core_.groups()) {
      const auto blocks = held(unit);
      bool any = false;
      for (const std::size_t b : blocks) {
        for (const auto& leaf : parameters_[b].leaves) any |= aside.lend(leaf);
      }
      if (!any) continue;
      for (const std::size_t b : blocks) {
        take_snapshot(b);
        bytes += before_[b].nbytes();
        batch.push_back(b);
      }
      if (bytes >= kBatchBytes) finish_batch();
    }
    finish_batch();
    aside.lend_rest();
    optimizer_.step();
    return std::move(report_);
  }

  /// For any optimizer, with a snapshot of all blocks. \returns what `optimizer.step` returned, and the report
  std::pair<Tensor, Report> at_once(const Optimizer::LossClosure& closure) {
    for (std::size_t b = 0; b < parameters_.size(); ++b) {
      if (held_[b]) take_snapshot(b);
    }
    Tensor loss = optimizer_.step(closure);
    for (const auto& unit : core_.groups()) {
      const auto blocks = held(unit);
      if (!blocks.empty()) project(blocks);
    }
    return {loss, std::move(report_)};
  }

 private:
  std::vector<std::size_t> held(const std::vector<std::size_t>& unit) const {
    std::vector<std::size_t> blocks;
    std::copy_if(unit.begin(), unit.end(), std::back_inserter(blocks), [&](std::size_t b) { return held_[b]; });
    return blocks;
  }
  void take_snapshot(std::size_t b) {
    before_[b] = parameters_[b].tensor().detach().clone(at::MemoryFormat::Contiguous);
  }
  void put_back() {
    ::torch::NoGradGuard no_grad;
    for (std::size_t b = 0; b < before_.size(); ++b) {
      if (before_[b].defined()) parameters_[b].tensor().detach().copy_(before_[b]);
    }
  }

  void project(const std::vector<std::size_t>& blocks) {
    std::vector<ConstTensorView> before(parameters_.size()), metric(parameters_.size());
    std::vector<TensorView> after(parameters_.size());
    std::vector<Contiguous> weights;
    std::vector<Tensor> metrics;
    const bool in_metric = metric_ == StepMetric::optimizer;
    const auto device = device_of(core_.backend());
    for (const std::size_t b : blocks) {
      const auto& p = parameters_[b];
      if (in_metric && core_.blocks()[b].form == Form::flat) {
        metrics.push_back(metric_of(optimizer_, p.tensor()));
        if (!metrics.back().defined()) continue;  // never stepped, so there is nothing to remove
        metric[b] = view(metrics.back(), "the metric of '" + p.name + "'", device);
      }
      const std::string what = "parameter '" + p.name + "'";
      weights.emplace_back(p.tensor());
      after[b] = view(weights.back().memory(), what, device);
      before[b] = view(before_[b], what, device);
    }
    try {
      auto report = core_.project_weights(before, after, in_metric ? metric : std::vector<ConstTensorView>{}, step_);
      report_.basis_age = report.basis_age;
      std::move(report.entries.begin(), report.entries.end(), std::back_inserter(report_.entries));
    } catch (...) {
      put_back();
      throw;
    }
    for (const auto& w : weights) w.write_back();
  }

  const Projector<T, B>& core_;
  const std::vector<Parameter>& parameters_;
  Optimizer& optimizer_;
  StepMetric metric_;
  Index step_;
  std::vector<bool> held_;
  std::vector<Tensor> before_;
  Report report_;
};

}  // namespace ogpsa::torch::detail
