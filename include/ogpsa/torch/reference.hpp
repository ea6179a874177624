#pragma once

#include <ATen/Context.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/nn/module.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/finite.hpp"
#include "ogpsa/torch/parameters.hpp"

/// \file
/// Reference losses, and how their gradients are computed without leaving a trace in the training run.

namespace ogpsa::torch {

/// The loss of one micro-batch.
struct ReferenceLoss {
  /// Mean over the micro-batch, one element.
  Tensor loss;
  /// Rows or tokens that it is the mean of; 0: the micro-batch is empty and left out.
  double weight = 1.0;
};

/// One reference objective: the mean loss over all its micro-batches, each weighted by its rows or tokens, so that it
/// does not depend on how the rows are cut.
struct Objective {
  std::string name;
  /// Number of micro-batches; at least 1.
  Index batches = 1;
  /// Computes the loss of micro-batch i, from 0.
  std::function<ReferenceLoss(Index i)> loss;
};

/// An objective of one micro-batch.
using LossClosure = std::function<Tensor()>;

namespace detail {

/// Takes .grad of all parameters aside for its lifetime; then puts it, requires_grad, the mode of every submodule, the
/// buffers and the random state (of the CPU, and of the GPUs that parameters are on) back as they were.
class TrainingState {
 public:
  TrainingState(const std::vector<Tensor>& parameters, ::torch::nn::Module* module) {
    if (module != nullptr) {
      module->apply([&](::torch::nn::Module& m) { modes_.emplace_back(&m, m.is_training()); });
      for (const auto& b : module->buffers()) buffers_.emplace_back(b, b.detach().clone());
    }
    keep_random_state(::torch::kCPU);
    std::set<const void*> seen;
    for (const auto& p : parameters) {
      if (!p.defined() || !seen.insert(p.unsafeGetTensorImpl()).second) continue;
      parameters_.push_back({p, {}, p.requires_grad()});
      if (p.is_cuda()) keep_random_state(p.device());
    }
    for (auto& p : parameters_) std::swap(p.gradient, p.tensor.mutable_grad());  // last: it cannot throw
  }
  TrainingState(const TrainingState&) = delete;
  TrainingState& operator=(const TrainingState&) = delete;

  ~TrainingState() {
    ::torch::NoGradGuard no_grad;
    for (auto& p : parameters_) {
      if (p.tensor.requires_grad() != p.requires_grad) p.tensor.set_requires_grad(p.requires_grad);
      p.tensor.mutable_grad() = std::move(p.gradient);
    }
    // Parents come before their children, whose mode they set.
    for (const auto& [m, training] : modes_) {
      if (m->is_training() != training) m->train(training);
    }
    // Not seen by autograd: to a graph that is still in use these are the values that it saw.
    for (const auto& [buffer, values] : buffers_) buffer.variable_data().copy_(values);
    for (auto& r : random_) {
      const std::lock_guard<std::mutex> lock(r.generator.mutex());
      r.generator.set_state(r.state);
    }
  }

 private:
  struct SavedParameter {
    Tensor tensor, gradient;
    bool requires_grad;
  };
  struct RandomState {
    at::Device device;
    at::Generator generator;
    Tensor state;
  };

  void keep_random_state(const at::Device& device) {
    if (std::any_of(random_.begin(), random_.end(), [&](const auto& r) { return r.device == device; })) return;
    at::Generator generator = at::globalContext().defaultGenerator(device);
    const std::lock_guard<std::mutex> lock(generator.mutex());
    random_.push_back({device, generator, generator.get_state()});
  }

  std::vector<SavedParameter> parameters_;
  std::vector<std::pair<::torch::nn::Module*, bool>> modes_;
  std::vector<std::pair<Tensor, Tensor>> buffers_;  // and their values
  std::vector<RandomState> random_;
};

inline std::string text_of(const Objective& objective, Index batch) {
  return "objective '" + objective.name + "', micro-batch " + std::to_string(batch);
}

/// Runs one closure and checks what it returns.
inline ReferenceLoss evaluate(const Objective& objective, Index batch, bool needs_gradient) {
  if (!objective.loss) throw InvalidArgument("ogpsa: objective '" + objective.name + "' has no closure");
  const ReferenceLoss result = objective.loss(batch);
  const std::string where = "ogpsa: " + text_of(objective, batch) + ": ";
  if (!(result.weight >= 0 && ogpsa::detail::is_finite(result.weight))) {
    throw InvalidArgument(where + "the weight is " + std::to_string(result.weight) +
                          "; give the number of rows or tokens");
  }
  if (result.weight == 0) return result;
  if (!result.loss.defined() || result.loss.numel() != 1) {
    throw InvalidArgument(where + "the closure must return the mean loss as a tensor of one element");
  }
  if (!ogpsa::detail::is_finite(result.loss.item<double>())) {
    throw NonFiniteError(where +
                         "the loss is NaN or infinite; nothing was changed. Check the rows of that micro-batch");
  }
  if (needs_gradient && !result.loss.requires_grad()) {
    throw InvalidArgument(where + "the loss does not depend on a trainable parameter; compute it from the module, " +
                          "without NoGradGuard or detach");
  }
  return result;
}

/// Gradients of one micro-batch, one per parameter and in contiguous memory; undefined where the loss does not depend
/// on it, or it is frozen now.
inline std::vector<Tensor> gradients(const Tensor& loss, const std::vector<Parameter>& parameters,
                                     const at::Device& device) {
  std::vector<Tensor> leaves;
  for (const auto& p : parameters) {
    std::copy_if(p.leaves.begin(), p.leaves.end(), std::back_inserter(leaves),
                 [](const Tensor& leaf) { return leaf.requires_grad(); });
  }
  if (leaves.empty()) return std::vector<Tensor>(parameters.size());
  auto all = ::torch::autograd::grad({loss}, leaves, {}, false, false, /*allow_unused=*/true);
  auto next = all.begin();
  ::torch::NoGradGuard no_grad;
  std::vector<Tensor> result;
  for (const auto& p : parameters) {
    Tensor sum;
    for (const auto& leaf : p.leaves) {
      if (!leaf.requires_grad()) continue;
      Tensor gradient = std::move(*next++);  // so that no second copy of all of them comes to be
      if (!gradient.defined()) continue;
      check_tensor(gradient, "the gradient of '" + p.name + "'", device);
      sum = sum.defined() ? sum + gradient : gradient.contiguous();
    }
    result.push_back(sum);
  }
  return result;
}

/// Collects the gradients of all objectives.
/// \returns for each parameter, whether any objective depends on it
/// \throws NonFiniteError naming objective, micro-batch and block; whatever a closure throws.
template <class T, class B>
std::vector<bool> collect(ReferenceCollector<T, B>& collector, const std::vector<Objective>& objectives,
                          const std::vector<Parameter>& parameters, bool needs_gradients, const at::Device& device) {
  std::vector<bool> used(parameters.size());
  for (std::size_t r = 0; r < objectives.size(); ++r) {
    const auto& objective = objectives[r];
    double total = 0;
    for (Index i = 0; i < objective.batches; ++i) {
      try {
        const auto [loss, weight] = evaluate(objective, i, needs_gradients);
        total += weight;
        if (weight == 0 || !needs_gradients) continue;
        const auto tensors = gradients(loss, parameters, device);
        std::vector<ConstTensorView> views(parameters.size());
        for (std::size_t p = 0; p < parameters.size(); ++p) {
          if (!tensors[p].defined()) continue;
          views[p] = view(tensors[p], "the gradient of '" + parameters[p].name + "'", device);
          used[p] = true;
        }
        collector.add(static_cast<Index>(r), views, weight);
      } catch (const NonFiniteError& error) {
        const std::string what = error.what(), at = text_of(objective, i);
        if (what.find(at) != std::string::npos) throw;
        throw NonFiniteError("ogpsa: " + at + ": " + what.substr(what.find(' ') + 1));
      }
    }
    if (total > 0) continue;
    throw StateError("ogpsa: objective '" + objective.name + "' has no rows: all of its " +
                     std::to_string(objective.batches) + " micro-batches are empty (weight 0)");
  }
  return used;
}

}  // namespace detail
}  // namespace ogpsa::torch
