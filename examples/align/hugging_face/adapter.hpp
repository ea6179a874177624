#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "hugging_face/weights.hpp"

namespace align {

/// Writes the adapters of a model as PEFT does: adapter_model.safetensors and adapter_config.json.
/// \param base  the model they belong to, a folder or a name
/// \throws ogpsa::FileError
void save_adapter(CausalLm& model, const std::filesystem::path& folder, const std::string& base, std::int64_t rank,
                  double alpha, const std::vector<std::string>& targets, torch::ScalarType dtype);

}  // namespace align
