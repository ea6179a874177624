#pragma once

#include <torch/torch.h>

#include <map>
#include <ogpsa/error.hpp>
#include <string>
#include <vector>

#include "model/model.hpp"

namespace align {

/// Low-rank adapters (Hu et al. 2021), named as in TRL.
struct LoraOptions {
  std::int64_t lora_r = 0;  ///< 0: all weights are trained
  double lora_alpha = 16;
  std::vector<std::string> lora_target_modules = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                  "gate_proj", "up_proj", "down_proj"};
};

/// Adds adapters to the linear layers whose last name is in lora_target_modules ("q_proj"), and freezes all else.
/// \throws ogpsa::InvalidArgument for a target that no layer has
inline void add_adapters(CausalLm& model, const LoraOptions& options, std::uint64_t seed) {
  for (auto& parameter : model->parameters()) parameter.set_requires_grad(false);
  auto generator = at::detail::createCPUGenerator(seed);
  for (const auto& target : options.lora_target_modules) {
    int found = 0;
    for (const auto& item : model->named_modules()) {
      auto* linear = item.value()->as<Linear>();
      const auto& name = item.key();
      if (linear == nullptr || !name.ends_with("." + target) || linear->has_adapter()) continue;
      linear->add_adapter(options.lora_r, options.lora_alpha, generator, name, model->observer);
      ++found;
    }
    if (found == 0) {
      throw ogpsa::InvalidArgument("lora_target_modules: no linear layer is called '" + target +
                                   "' (or it is named twice); use q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, "
                                   "down_proj");
    }
  }
}

/// The layers that have an adapter.
inline std::vector<LinearImpl*> adapters(CausalLm& model) {
  std::vector<LinearImpl*> result;
  for (const auto& module : model->modules()) {
    auto* linear = module->as<Linear>();
    if (linear != nullptr && linear->has_adapter()) result.push_back(linear);
  }
  return result;
}

/// The adapters' parameters, by the names that PEFT gives them.
inline std::map<std::string, torch::Tensor> adapter_parameters(CausalLm& model) {
  std::map<std::string, torch::Tensor> result;
  for (const auto& item : model->named_parameters()) {
    if (item.key().find(".lora_") != std::string::npos) result["base_model.model." + item.key()] = item.value();
  }
  return result;
}

}  // namespace align
