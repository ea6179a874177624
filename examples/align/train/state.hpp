#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <memory>
#include <ogpsa/torch/optimizer_step.hpp>
#include <type_traits>
#include <utility>

#include "model/model.hpp"
#include "train/tensor_file.hpp"

/// \file
/// What a run has to keep, as tensors.

namespace align {

/// Parameters that are trained, by name. The others are those of the checkpoint that the run began with.
inline Tensors trained_parameters(CausalLm& model) {
  Tensors result;
  for (const auto& item : model->named_parameters()) {
    if (item.value().requires_grad()) result[item.key()] = item.value();
  }
  return result;
}

/// In float32, which is how they are trained. \throws ogpsa::FileError
inline void save_parameters(CausalLm& model, const std::filesystem::path& file) {
  write_safetensors(file, trained_parameters(model), torch::kFloat32);
}
/// \throws ogpsa::FileError when the file is not that of this model
inline void load_parameters(CausalLm& model, const std::filesystem::path& file) {
  copy_tensors(map_safetensors(file), trained_parameters(model), file.string());
}

/// AdamW's state of one parameter; made where there is none yet.
inline torch::optim::AdamWParamState& adamw_state(torch::optim::AdamW& optimizer, const torch::Tensor& parameter) {
  using Key = std::decay_t<decltype(optimizer.state())>::key_type;
  auto& state = optimizer.state()[ogpsa::torch::detail::state_key<Key>(parameter)];
  if (state == nullptr) {
    auto fresh = std::make_unique<torch::optim::AdamWParamState>();
    fresh->exp_avg(torch::zeros_like(parameter)).exp_avg_sq(torch::zeros_like(parameter));
    state = std::move(fresh);
  }
  return static_cast<torch::optim::AdamWParamState&>(*state);
}

/// AdamW's moments (views of them), how many steps each parameter has made, and the run ("step").
inline Tensors optimizer_tensors(CausalLm& model, torch::optim::AdamW& optimizer, std::int64_t step) {
  const auto number = [](std::int64_t value) { return torch::tensor(static_cast<float>(value)); };  // exact to 2^24
  Tensors tensors = {{"step", number(step)}};
  for (const auto& [name, parameter] : trained_parameters(model)) {
    const auto& state = adamw_state(optimizer, parameter);
    tensors["exp_avg." + name] = state.exp_avg();
    tensors["exp_avg_sq." + name] = state.exp_avg_sq();
    tensors["step." + name] = number(state.step());
  }
  return tensors;
}

inline void save_optimizer(CausalLm& model, torch::optim::AdamW& optimizer, std::int64_t step,
                           const std::filesystem::path& file) {
  write_safetensors(file, optimizer_tensors(model, optimizer, step), torch::kFloat32);
}
/// \return the step of the run
inline std::int64_t load_optimizer(CausalLm& model, torch::optim::AdamW& optimizer, const std::filesystem::path& file) {
  const auto tensors = optimizer_tensors(model, optimizer, 0);
  copy_tensors(map_safetensors(file), tensors, file.string());
  const auto number = [&](const std::string& name) { return tensors.at(name).item<std::int64_t>(); };
  for (const auto& [name, parameter] : trained_parameters(model)) {
    adamw_state(optimizer, parameter).step(number("step." + name));
  }
  return number("step");
}

}  // namespace align
