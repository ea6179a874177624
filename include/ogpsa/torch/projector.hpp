#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "ogpsa/backend/eigen.hpp"
#include "ogpsa/state.hpp"
#include "ogpsa/torch/optimizer_step.hpp"
#include "ogpsa/torch/reference.hpp"

namespace ogpsa::torch {

namespace detail {

/// A backend that can be made for any device; others are where `device_of` says.
template <class B>
inline constexpr bool follows_parameters = std::is_constructible_v<B, at::Device>;

/// Where the parameters of a projector have to be; none: all on the device of the first one. A backend that is not
/// given is made here, where it follows no parameters.
template <class B>
std::optional<at::Device> device_for(std::optional<B>& backend) {
  if constexpr (!follows_parameters<B> && std::is_default_constructible_v<B>) {
    if (!backend) backend.emplace();
  }
  return backend ? std::optional(device_of(*backend)) : std::nullopt;
}

/// The backend, or one for the device of the parameters. \throws InvalidArgument where `B` has to be given, and is not.
template <class B>
B backend_for(std::optional<B> backend, [[maybe_unused]] const at::Device& device) {
  if (backend) return std::move(*backend);
  if constexpr (follows_parameters<B>) {
    return B(device);
  } else {
    throw InvalidArgument("ogpsa: this projector's backend cannot be made without arguments; give one");
  }
}

}  // namespace detail

/// Keeps training from moving reference losses: a Projector on the parameters of a LibTorch module.
///
///     ogpsa::torch::GradientProjector projector(*model, {.refresh_every = 30});
///     for (int step = 0; step < steps; ++step) {
///       if (projector.refresh_due(step)) projector.refresh(reference_losses);
///       optimizer.zero_grad();
///       safety_loss().backward();
///       projector.project_gradients();  // the published rule, or
///       optimizer.step();               // projector.step(optimizer): exact on the step that is taken
///     }
///
/// Arithmetic and bases are in `T` (float or double); parameters are stored as float32, float64, bfloat16 or float16,
/// where the backend works (`device_of`): on the CPU, or on a GPU (CudaGradientProjector in ogpsa/torch/cuda.hpp). The
/// projector holds the parameters it was made from; a module given to it must outlive it.
template <class T, class B = EigenBackend>
class BasicGradientProjector {
 public:
  /// All parameters of a module that `options` chooses. \throws InvalidArgument
  explicit BasicGradientProjector(::torch::nn::Module& module, Options options = {}, std::optional<B> backend = {})
      : BasicGradientProjector(detail::named_parameters(module), &module, std::move(options), std::move(backend)) {}

  /// Parameters by name. \throws InvalidArgument
  explicit BasicGradientProjector(const NamedParameters& parameters, Options options = {},
                                  std::optional<B> backend = {})
      : BasicGradientProjector(parameters, nullptr, std::move(options), std::move(backend)) {}

  /// The parameters of an optimizer's groups, named "group0.parameter3". \throws InvalidArgument
  explicit BasicGradientProjector(const ::torch::optim::Optimizer& optimizer, Options options = {},
                                  std::optional<B> backend = {})
      : BasicGradientProjector(detail::named_parameters(optimizer), nullptr, std::move(options), std::move(backend)) {}

  /// The parameters of an optimizer's groups, with the names they have in a module. \throws InvalidArgument
  BasicGradientProjector(const ::torch::optim::Optimizer& optimizer, ::torch::nn::Module& module, Options options = {},
                         std::optional<B> backend = {})
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
  /// Undefined gradients are passed over; only in a group that has others do they count as zero, and become defined.
  /// \throws StateError before the first refresh; InvalidArgument; NonFiniteError. Nothing is changed then.
  const Report& project_gradients();

  /// Takes one step of the optimizer and removes from what it did to the weights what would move the reference losses
  /// (Options::metric): <h_r, D> = 0 to rounding for the step D, whatever momentum, scaling and weight decay do.
  ///
  /// Adam, AdamW, SGD, RMSprop and Adagrad are stepped a few blocks at a time, with a snapshot of these alone (32 MiB,
  /// or one block); any other optimizer at once, with a snapshot of all blocks. Parameters that are not blocks are
  /// stepped as ever.
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
  BasicGradientProjector(const NamedParameters& parameters, ::torch::nn::Module* module, Options options,
                         std::optional<B> backend)
      : options_(std::move(options)),
        module_(module),
        all_(parameters),
        selection_(detail::Selector(options_, module ? detail::embedding_weights(*module) : std::set<const void*>{},
                                    detail::device_for(backend))
                       .select(parameters)),
        core_(selection_.blocks, options_.projector(), detail::backend_for(std::move(backend), selection_.device)) {}

  at::Device device() const { return selection_.device; }

  bool needs_gradients() const;
  void require_ready() const {
    if (core_.ready()) return;
    throw StateError("ogpsa: there is no subspace to project by yet; call refresh first (see refresh_due)");
  }
  void check_gradients(const std::vector<std::size_t>& blocks) const;
  void check_observed() const;
  std::vector<bool> has_gradient() const;
  void note_without_gradient(const std::vector<bool>& has_gradient, const std::string& reason);
  bool lies_contiguous(const std::vector<std::size_t>& unit) const;
  Report project_unit(const std::vector<std::size_t>& unit, std::size_t leaf) const;

  Options options_;
  ::torch::nn::Module* module_;
  NamedParameters all_;
  detail::Selection selection_;
  Projector<T, B> core_;
  std::vector<Skipped> without_gradient_;
  Report report_;
  Index step_ = -1;                                    // unknown
  std::optional<ReferenceCollector<T, B>> collector_;  // while refresh runs
  std::set<std::string> observed_;
};

/// With float arithmetic.
using GradientProjector = BasicGradientProjector<float>;

}  // namespace ogpsa::torch

#include "ogpsa/torch/projector_impl.hpp"
