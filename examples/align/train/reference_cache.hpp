#pragma once

#include <torch/torch.h>

#include <cstring>
#include <filesystem>
#include <ogpsa/safetensors.hpp>
#include <string>
#include <vector>

#include "train/dpo.hpp"
#include "train/random.hpp"

namespace align {

/// What log-probabilities depend on: the tokens, which of them are answers, and the weights (their sums and norms).
inline std::string fingerprint(CausalLm& model, const std::vector<Example>& examples) {
  const torch::NoGradGuard no_grad;
  std::string text;
  const auto add = [&](const auto& value) { text.append(reinterpret_cast<const char*>(&value), sizeof value); };
  for (const auto& example : examples) {
    for (std::size_t t = 0; t < example.tokens.size(); ++t) add(2 * example.tokens[t] + (example.answer[t] ? 1 : 0));
    add(std::int64_t{-1});
  }
  for (const auto& p : model->parameters()) {
    const auto values = p.to(torch::kCPU);  // so that the device does not matter
    add(values.sum(torch::kFloat64).item<double>());
    add(values.norm().item<double>());
  }
  return std::to_string(hash(text));
}

/// `reference_log_probs`, computed once and kept in a file, so that a run that is resumed has the same reference
/// policy. \throws ogpsa::FileError
inline torch::Tensor cached_reference_log_probs(const std::filesystem::path& file, CausalLm& model,
                                                const std::vector<Example>& examples, std::int64_t padding,
                                                std::int64_t batch_size) {
  const auto key = fingerprint(model, examples);
  const auto rows = static_cast<std::int64_t>(examples.size() / 2);
  if (std::filesystem::exists(file)) {
    ogpsa::SafetensorsReader reader(file);
    if (reader.metadata("fingerprint") == key) {
      return torch::tensor(reader.read<float>("log_probs"), torch::kFloat32).view({rows, 2});
    }
  }
  const auto result = reference_log_probs(model, examples, padding, static_cast<std::size_t>(batch_size)).contiguous();
  ogpsa::SafetensorsWriter writer;
  writer.metadata["fingerprint"] = key;
  const auto* values = result.data_ptr<float>();
  writer.add("log_probs", std::vector<float>(values, values + result.numel()), {static_cast<std::uint64_t>(rows), 2});
  writer.write(file);
  return result;
}

}  // namespace align
