#pragma once

#include <torch/nn/module.h>
#include <torch/nn/modules/embedding.h>
#include <torch/optim/optimizer.h>

#include <map>
#include <optional>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/projector.hpp"
#include "ogpsa/torch/tensors.hpp"

/// \file
/// Which parameters become blocks of the projector, and in which form.

namespace ogpsa::torch {

using NamedParameters = std::vector<std::pair<std::string, Tensor>>;

/// In which metric `GradientProjector::step` finds the closest step without the forbidden component.
enum class StepMetric {
  euclidean,
  optimizer,  ///< sqrt(v) + eps of Adam and AdamW, v with bias correction; for flat blocks in mode orthogonal
};

/// The fields of ProjectorOptions, and how parameters become blocks. Patterns are regular expressions (ECMAScript) that
/// may match anywhere in a parameter's name ("layers.0.mlp.up_proj.weight"); anchor them with ^ and $.
struct Options {
  RefreshPolicy policy = RefreshPolicy::periodic;
  /// Optimizer steps between refreshes; at least 1. OGPSA: 30 in SFT, 5 in DPO.
  Index refresh_every = 30;
  /// Weight of the old singular values at a streaming refresh, in (0, 1].
  double forgetting = 0.9;
  Granularity granularity = Granularity::block;
  ProjectionOptions projection = {};
  ReferenceOptions reference = {};
  /// How flat bases are kept between refreshes (float arithmetic only); see ProjectorOptions.
  BasisStorage basis_storage = BasisStorage::full;

  /// Parameters to protect, less those to leave out; empty: all, less none.
  std::string include = {};
  std::string exclude = {};
  /// Matrices to protect on one side or both (`form`) instead of as flat vectors, such as
  /// "(q|k|v|o|gate|up|down)_proj.weight$"; empty: none. A convolution's weight is a matrix of out x (in kh kw).
  std::string structured = {};
  Form form = Form::input;
  /// Matrices that stay flat although `structured` matches them. So do vectors, and the weights of Embedding modules
  /// where a module is given.
  std::string flat = "embed";
  /// For Granularity::group: the group of a block is what the first capture matches, or the whole match without one.
  std::string group = {};

  StepMetric metric = StepMetric::euclidean;

  ProjectorOptions projector() const {
    return {policy, refresh_every, forgetting, granularity, projection, reference, basis_storage};
  }
};

/// A parameter that is not protected (or, in one call, had no gradient), and why.
struct Skipped {
  std::string name;
  std::string reason;
};

namespace detail {

/// One block: a tensor, and further leaves of autograd on the same memory.
struct Parameter {
  std::string name;
  std::vector<Tensor> leaves;
  const Tensor& tensor() const { return leaves.front(); }
};

/// Parameters that were chosen, with their blocks in the same order.
struct Selection {
  std::vector<Parameter> parameters;
  std::vector<BlockSpec> blocks;
  std::vector<Skipped> skipped;
  at::Device device = ::torch::kCPU;  // of all of them
};

/// An optional regular expression. \throws InvalidArgument when it is not one.
class Pattern {
 public:
  Pattern(const std::string& text, const std::string& option) : empty_(text.empty()) {
    try {
      if (!empty_) regex_.assign(text);
    } catch (const std::regex_error& error) {
      throw InvalidArgument("ogpsa: option " + option + ": '" + text + "' is not a regular expression (" +
                            error.what() + ")");
    }
  }
  bool empty() const { return empty_; }
  bool matches(const std::string& name) const { return !empty_ && std::regex_search(name, regex_); }
  /// What the first capture matches, or the whole pattern without one; empty where it does not match.
  std::string capture(const std::string& name) const {
    std::smatch match;
    if (empty_ || !std::regex_search(name, match, regex_)) return {};
    return match[match.size() > 1 ? 1 : 0];
  }

 private:
  bool empty_;
  std::regex regex_;
};

/// The weights of a module's embeddings, by identity.
inline std::set<const void*> embedding_weights(::torch::nn::Module& module) {
  std::set<const void*> weights;
  module.apply([&](::torch::nn::Module& m) {
    const auto add = [&](const auto* embedding) {
      if (embedding != nullptr) weights.insert(embedding->weight.unsafeGetTensorImpl());
    };
    add(dynamic_cast<const ::torch::nn::EmbeddingImpl*>(&m));
    add(dynamic_cast<const ::torch::nn::EmbeddingBagImpl*>(&m));
  });
  return weights;
}

inline NamedParameters named_parameters(const ::torch::nn::Module& module) {
  NamedParameters result;
  for (const auto& item : module.named_parameters()) result.emplace_back(item.key(), item.value());
  return result;
}

/// An optimizer's parameters, named after `names` where they are in it, else "group0.parameter3".
inline NamedParameters named_parameters(const ::torch::optim::Optimizer& optimizer, const NamedParameters& names = {}) {
  std::map<const void*, std::string> known;
  for (const auto& [name, tensor] : names) known.emplace(tensor.unsafeGetTensorImpl(), name);
  NamedParameters result;
  const auto& groups = optimizer.param_groups();
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const auto& tensors = groups[g].params();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const auto found = known.find(tensors[i].unsafeGetTensorImpl());
      result.emplace_back(
          found != known.end() ? found->second : "group" + std::to_string(g) + ".parameter" + std::to_string(i),
          tensors[i]);
    }
  }
  return result;
}

/// Turns chosen parameters into blocks.
class Selector {
 public:
  /// \param device  where all of them have to be; none: where the first one is
  Selector(const Options& options, std::set<const void*> embeddings, std::optional<at::Device> device)
      : options_(options), embeddings_(std::move(embeddings)), device_(device) {}

  /// \throws InvalidArgument naming the option whose pattern chooses nothing, or the parameter that cannot be a block.
  Selection select(const NamedParameters& named) {
    for (const auto& [name, tensor] : named) consider(name, tensor);
    check_devices();
    if (result_.blocks.empty()) {
      throw InvalidArgument("ogpsa: none of " + std::to_string(named.size()) + " parameters is left to protect (" +
                            (result_.skipped.empty()
                                 ? "include is '" + options_.include + "', exclude is '" + options_.exclude + "'"
                                 : "'" + result_.skipped[0].name + "': " + result_.skipped[0].reason) +
                            ")");
    }
    require(structured_.empty() || any_structured_, "structured", options_.structured, "matrix");
    require(group_.empty() || any_group_, "group", options_.group, "block");
    if (options_.granularity == Granularity::group && group_.empty()) {
      throw InvalidArgument("ogpsa: granularity is group, but option group is empty; give a pattern that captures " +
                            std::string("the name of a block's group, such as \"layers\\\\.(\\\\d+)\""));
    }
    if (device_) result_.device = *device_;
    return std::move(result_);
  }

 private:
  /// \throws InvalidArgument that says what is where
  void check_devices() const {
    if (!elsewhere_) return;
    std::string text;
    for (const auto& [place, names] : places_) {
      text += (text.empty() ? "'" : "; '") + names.front() + "'";
      if (names.size() > 1) text += " and " + std::to_string(names.size() - 1) + " more";
      text += (names.size() > 1 ? " are on " : " is on ") + place;
    }
    if (places_.size() == 1) {
      throw InvalidArgument("ogpsa: " + text + ", but this projector works on " + device_->str() + "; " +
                            device_advice(*device_));
    }
    throw InvalidArgument("ogpsa: the parameters are on several devices: " + text + "; make one projector for each " +
                          "device, whose parameters the option include chooses");
  }

  static void require(bool found, const char* option, const std::string& text, const char* what) {
    if (found) return;
    throw InvalidArgument(std::string("ogpsa: option ") + option + ": no " + what + " has a name that matches '" +
                          text + "'");
  }

  void consider(const std::string& name, const Tensor& tensor) {
    if ((!include_.empty() && !include_.matches(name)) || exclude_.matches(name)) return;
    const auto skip = [&](const std::string& reason) { result_.skipped.push_back({name, reason}); };
    if (!tensor.defined() || tensor.numel() == 0) return skip("it is empty");
    if (!tensor.requires_grad()) return skip("it is frozen (requires_grad is false)");
    if (!tensor.is_leaf()) {
      throw InvalidArgument("ogpsa: parameter '" + name +
                            "' is computed from other tensors; give the leaf that is trained");
    }
    if (!device_) device_ = tensor.device();
    places_[tensor.device().str()].push_back(name);
    if (tensor.device() != *device_) {
      elsewhere_ = true;
      return;
    }
    check_tensor(tensor, "parameter '" + name + "'", *device_);
    const auto seen = by_memory_.find(tensor.data_ptr());
    if (seen == by_memory_.end()) return add(name, tensor);
    auto& first = result_.parameters[seen->second];
    if (first.tensor().is_same(tensor)) return skip("it is tied to '" + first.name + "'");
    if (first.tensor().sizes() != tensor.sizes() || first.tensor().strides() != tensor.strides()) {
      throw InvalidArgument("ogpsa: '" + name + "' shares its memory with '" + first.name +
                            "' in another shape; exclude one of them");
    }
    first.leaves.push_back(tensor);
    skip("it shares its memory with '" + first.name + "'");
  }

  void add(const std::string& name, const Tensor& tensor) {
    by_memory_.emplace(tensor.data_ptr(), result_.parameters.size());
    const auto [rows, cols] = matrix_shape(tensor);
    BlockSpec block{.name = name, .rows = rows, .cols = cols, .group = group_.capture(name)};
    const bool stays_flat =
        rows < 2 || cols < 2 || flat_.matches(name) || embeddings_.count(tensor.unsafeGetTensorImpl()) > 0;
    if (structured_.matches(name) && !stays_flat) block.form = options_.form;
    any_structured_ |= block.form != Form::flat || (structured_.matches(name) && options_.form == Form::flat);
    any_group_ |= !block.group.empty();
    result_.parameters.push_back({name, {tensor}});
    result_.blocks.push_back(std::move(block));
  }

  const Options& options_;
  std::set<const void*> embeddings_;
  std::optional<at::Device> device_;
  std::map<std::string, std::vector<std::string>> places_;  // names by device
  bool elsewhere_ = false;
  Pattern include_{options_.include, "include"}, exclude_{options_.exclude, "exclude"};
  Pattern structured_{options_.structured, "structured"}, flat_{options_.flat, "flat"};
  Pattern group_{options_.group, "group"};
  Selection result_;
  std::map<const void*, std::size_t> by_memory_;
  bool any_structured_ = false, any_group_ = false;
};

}  // namespace detail
}  // namespace ogpsa::torch
