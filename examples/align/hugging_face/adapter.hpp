#pragma once

#include <filesystem>
#include <string>

#include "hugging_face/weights.hpp"
#include "model/lora.hpp"

/// \file
/// LoRA adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors.

namespace align {

/// Where a model is: a checkpoint, and perhaps an adapter for it.
struct ModelFolders {
  std::filesystem::path base;
  std::filesystem::path adapter;  ///< empty: none
};

/// \param model    a checkpoint, or an adapter whose adapter_config.json names its checkpoint
/// \param adapter  of that checkpoint; empty: none
/// \throws ogpsa::InvalidArgument when that does not lead to a checkpoint, ogpsa::FileError
ModelFolders find_model(const std::filesystem::path& model, const std::filesystem::path& adapter);

/// Rank, alpha and layers of an adapter. Dropout is not taken over. \throws ogpsa::FileError, ogpsa::InvalidArgument
/// naming a field that stands for something else than plain LoRA (DoRA, patterns of ranks ...)
LoraOptions adapter_options(const std::filesystem::path& folder);

/// Puts an adapter on a model, and freezes all else.
/// \throws ogpsa::FileError naming a tensor that is missing, has no counterpart, or is of another shape;
/// ogpsa::InvalidArgument
void load_adapter(CausalLm& model, const std::filesystem::path& folder);

/// \param base  the model that the adapters belong to, a folder or a name
/// \throws ogpsa::FileError
void save_adapter(CausalLm& model, const std::filesystem::path& folder, const std::string& base,
                  const LoraOptions& options, torch::ScalarType dtype);

}  // namespace align
