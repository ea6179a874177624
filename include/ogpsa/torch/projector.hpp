#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "ogpsa/backend/eigen.hpp"
#include "ogpsa/state.hpp"
#include "ogpsa/torch/optimizer_step.hpp"
#include "ogpsa/torch/reference.hpp"

namespace ogpsa::torch {

/// Keeps training from moving reference losses: a Projector on the parameters of a LibTorch module.
///
///     ogpsa::torch::GradientProjector projector(*model, {.refresh_every = 30});
///     for (int step = 0; step < steps; ++step) {
///       if (projector.refresh_due(step)) projector.refresh(reference_losses);
///       optimizer.zero_grad();
///       safety_loss().backward();
///       projector.project_gradients();  // the published rule, then optimizer.step(); or, exact on the step:
///       projector.step(optimizer);      // instead of optimizer.step()
///     }
///
/// Arithmetic and bases are in `T` (float or double); parameters are stored as float32, float64, bfloat16 or float16,
/// on the CPU. The projector holds the parameters it was made from; a module given to it must outlive it.
template <class T, class B = EigenBackend>
class BasicGradientProjector {
 public:
  /// All parameters of a module that `options` chooses. \throws InvalidArgument
  explicit BasicGradientProjector(::torch::nn::Module& module, Options options = {}, B backend = {})
      : BasicGradientProjector(detail::named_parameters(module), &module, std::move(options), std::move(backend)) {}

  /// Parameters by name. \throws InvalidArgument
  explicit BasicGradientProjector(const NamedParameters& parameters, Options options = {}, B backend = {})
      : BasicGradientProjector(parameters, nullptr, std::move(options), std::move(backend)) {}

  /// The parameters of an optimizer's groups, named "group0.parameter3". \throws InvalidArgument
  explicit BasicGradientProjector(const ::torch::optim::Optimizer& optimizer, Options options = {}, B backend = {})
      : BasicGradientProjector(detail::named_parameters(optimizer), nullptr, std::move(options), std::move(backend)) {}

  /// The parameters of an optimizer's groups, with the names they have in a module. \throws InvalidArgument
  BasicGradientProjector(const ::torch::optim::Optimizer& optimizer, ::torch::nn::Module& module, Options options = {},
                         B backend = {})
      : BasicGradientProjector(detail::named_parameters(optimizer, detail::named_parameters(module)), &module,
                               std::move(options), std::move(backend)) {}

  const Options& options() const { return options_; }
  /// The core's projector: blocks and their subspaces.
  const Projector<T, B>& core() const { return core_; }
  const std::vector<BlockSpec>& blocks() const { return core_.blocks(); }
  /// Parameters that could have been blocks but are not: frozen, tied to another, empty.
  const std::vector<Skipped>& skipped() const { return selection_.skipped; }
  /// Blocks that had no gradient in the last `refresh`, `project_gradients` or `step`, and were passed over.
  const std::vector<Skipped>& without_gradient() const { return without_gradient_; }
  /// Of the last `project_gradients` or `step`.
  const Report& report() const { return report_; }

  /// True when there is no subspace yet, or `step` is a multiple of `refresh_every`. Reports and the age of the basis
  /// count from this step on.
  bool refresh_due(Index step) {
    step_ = step;
    return core_.refresh_due(step);
  }

  /// Computes the gradients of the reference objectives at the current weights, and makes or updates the subspaces
  /// from them (Options::policy). Afterwards .grad, requires_grad, the mode of every submodule, buffers and the random
  /// state are as they were, also when it throws; memory beside the bases is one gradient of the model.
  /// \param step  the optimizer step; left out: that of `refresh_due`
  /// \throws NonFiniteError naming objective, micro-batch and block; InvalidArgument; whatever a closure throws. The
  ///         subspaces are then as they were.
  void refresh(const std::vector<Objective>& objectives, Index step = -1);
  /// The same for objectives of one micro-batch: closures that return the mean loss.
  void refresh(const std::vector<LossClosure>& losses, Index step = -1) {
    std::vector<Objective> objectives;
    for (const auto& loss : losses) {
      objectives.push_back({std::to_string(objectives.size()), 1, [loss](Index) {
                              return ReferenceLoss{loss(), 1.0};
                            }});
    }
    refresh(objectives, step);
  }

  /// With StructuredOptions::source = inputs: takes note of the inputs that a layer sees while `refresh` runs, and does
  /// nothing at any other time. Call it in the module's forward.
  /// \param block   name of the layer's weight
  /// \param inputs  [..., in]: all but the last dimension count samples; leave padding out
  /// \throws InvalidArgument for an unknown name or a wrong length; NonFiniteError
  void observe_inputs(const std::string& block, const Tensor& inputs);

  /// Projects .grad in place, once per optimizer step: after the last backward, before clipping and the optimizer.
  /// \throws StateError before the first refresh; InvalidArgument; NonFiniteError. Nothing is changed then.
  const Report& project_gradients();

  /// Takes one step of the optimizer and removes from what it did to the weights what would move the reference losses
  /// (Options::metric): <h_r, D> = 0 to rounding for the step D, whatever momentum, scaling and weight decay do.
  ///
  /// Adam, AdamW, SGD, RMSprop and Adagrad are stepped one block at a time, with a snapshot of that block alone; any
  /// other optimizer at once, with a snapshot of all blocks. Parameters that are not blocks are stepped as ever.
  ///
  /// Weights in bfloat16 (8 bits) or float16 (11 bits) round the step when it is added: each element is off by up to
  /// half a unit in its last place, often more than a small step has, and no projection can undo that. Keep float32
  /// weights where the constraint has to hold.
  /// \param closure  computes the loss anew, as for Optimizer::step
  /// \returns what the optimizer returned: the closure's loss, or an undefined tensor
  /// \throws StateError before the first refresh; InvalidArgument; NonFiniteError before anything is changed, or with
  ///         the weights of that block as they were when the step itself was not finite. .grad is always put back.
  Tensor step(::torch::optim::Optimizer& optimizer, ::torch::optim::Optimizer::LossClosure closure = nullptr);

  /// Saves the subspaces (ogpsa::save). \throws FileError
  void save(const std::filesystem::path& path) const { ogpsa::save(path, core_); }
  /// Loads what `save` wrote for the same blocks. \throws FileError, InvalidArgument; nothing is changed then.
  void load(const std::filesystem::path& path) {
    ogpsa::load(path, core_);
    step_ = core_.last_refresh();
  }

 private:
  BasicGradientProjector(const NamedParameters& parameters, ::torch::nn::Module* module, Options options, B backend)
      : options_(std::move(options)),
        module_(module),
        all_(parameters),
        selection_(detail::Selector(options_, module ? detail::embedding_weights(*module) : std::set<const void*>{})
                       .select(parameters)),
        core_(selection_.blocks, options_.projector(), std::move(backend)) {}

  bool needs_gradients() const;
  void require_ready() const {
    if (core_.ready()) return;
    throw StateError("ogpsa: there is no subspace to project by yet; call refresh first (see refresh_due)");
  }
  void check_gradients() const;
  void check_observed() const;
  void note_without_gradient(const std::vector<bool>& has_gradient, const std::string& reason);
  Report project_unit(const std::vector<std::size_t>& unit, std::size_t leaf) const;

  Options options_;
  ::torch::nn::Module* module_;
  NamedParameters all_;
  detail::Selection selection_;
  Projector<T, B> core_;
  std::vector<Skipped> without_gradient_;
  Report report_;
  Index step_ = 0;
  std::optional<ReferenceCollector<T, B>> collector_;  // while refresh runs
  std::set<std::string> observed_;
};

/// With float arithmetic.
using GradientProjector = BasicGradientProjector<float>;

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
  std::vector<Tensor> parameters;
  for (const auto& item : all_) {
    if (item.second.defined()) parameters.push_back(item.second);
  }
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
    used = detail::collect(*collector_, objectives, selection_.parameters, gradients);
    if (!gradients) used.assign(used.size(), true);
  }
  check_observed();
  if (step >= 0) step_ = step;
  core_.finish_refresh(std::move(*collector_), step_);
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
  check_tensor(rows, what);
  collector_->add_inputs(block, ConstTensorView{rows.data_ptr(), storage_type(rows, what), rows.size(0), spec->cols});
  observed_.insert(block);
}

template <class T, class B>
void BasicGradientProjector<T, B>::check_gradients() const {
  for (const auto& p : selection_.parameters) {
    for (const auto& leaf : p.leaves) {
      if (!leaf.grad().defined()) continue;
      const std::string what = "the gradient of '" + p.name + "'";
      check_tensor(leaf.grad(), what);
      const detail::Contiguous gradient(leaf.grad());
      const Index bad = core_.backend().first_non_finite(view(gradient.memory(), what));
      if (bad < 0) continue;
      throw NonFiniteError("ogpsa: block '" + p.name + "': gradient element " + std::to_string(bad) +
                           " is NaN or infinite; nothing was changed. Skip this step, or lower the learning rate or " +
                           "the loss scale");
    }
  }
}

/// Projects the gradients of one unit, through contiguous copies where they need one.
template <class T, class B>
Report BasicGradientProjector<T, B>::project_unit(const std::vector<std::size_t>& unit, std::size_t leaf) const {
  std::vector<TensorView> views(blocks().size());
  std::vector<detail::Contiguous> gradients;
  for (const std::size_t b : unit) {
    const auto& p = selection_.parameters[b];
    if (leaf >= p.leaves.size() || !p.leaves[leaf].grad().defined()) continue;
    gradients.emplace_back(p.leaves[leaf].grad());
    views[b] = view(gradients.back().memory(), "the gradient of '" + p.name + "'");
  }
  Report report = core_.project_gradients(views, step_);
  for (const auto& g : gradients) g.write_back();
  return report;
}

template <class T, class B>
const Report& BasicGradientProjector<T, B>::project_gradients() {
  require_ready();
  check_gradients();
  // Units whose gradients lie contiguously in memory go in one call, the others one by one.
  std::vector<TensorView> views(blocks().size());
  std::vector<std::vector<std::size_t>> others;
  std::vector<bool> has_gradient(blocks().size());
  for (const auto& unit : core_.groups()) {
    bool direct = true;
    for (const std::size_t b : unit) {
      const auto& leaves = selection_.parameters[b].leaves;
      for (const auto& leaf : leaves) {
        if (!leaf.grad().defined()) continue;
        has_gradient[b] = true;
        direct &= leaf.grad().is_contiguous() && leaves.size() == 1;
      }
    }
    if (!direct) {
      others.push_back(unit);
      continue;
    }
    for (const std::size_t b : unit) {
      const auto& p = selection_.parameters[b];
      if (has_gradient[b]) views[b] = view(p.tensor().grad(), "the gradient of '" + p.name + "'");
    }
  }
  report_ = core_.project_gradients(views, step_);
  for (const auto& unit : others) {
    std::size_t leaves = 0;
    for (const std::size_t b : unit) leaves = std::max(leaves, selection_.parameters[b].leaves.size());
    for (std::size_t leaf = 0; leaf < leaves; ++leaf) {
      auto report = project_unit(unit, leaf);
      report_.entries.insert(report_.entries.end(), report.entries.begin(), report.entries.end());
    }
  }
  note_without_gradient(has_gradient, "its gradient is undefined");
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
  const bool by_unit = detail::steps_per_parameter(optimizer);
  Tensor loss;
  if (by_unit && closure) {
    const ::torch::AutoGradMode enable(true);
    loss = closure();
  }
  if (by_unit || !closure) check_gradients();
  std::vector<bool> has_gradient(blocks().size());
  for (std::size_t b = 0; b < blocks().size(); ++b) {
    for (const auto& leaf : selection_.parameters[b].leaves) has_gradient[b] = has_gradient[b] || leaf.grad().defined();
  }
  if (by_unit) {
    report_ = projected.unit_by_unit();
  } else {
    std::tie(loss, report_) = projected.at_once(closure);
  }
  note_without_gradient(has_gradient, "its gradient is undefined");
  return loss;
}

}  // namespace ogpsa::torch
