#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <string>

#include "model/model.hpp"
#include "train/tensor_file.hpp"

namespace align {

/// float32, bfloat16 or float16, as in config.json. \throws ogpsa::InvalidArgument for another name
torch::ScalarType dtype_of(const std::string& name);
std::string dtype_name(torch::ScalarType dtype);

/// The tensors of model.safetensors, or of the shards that model.safetensors.index.json lists.
Tensors map_weights(const std::filesystem::path& folder);

/// Copies weights to all parameters of a model (see copy_tensors). Where embeddings are tied, either of their two names
/// will do. \throws ogpsa::FileError as copy_tensors does, and when embeddings that should be tied differ
void load_weights(CausalLm& model, Tensors weights, const std::string& where);

/// Writes the model's parameters in `dtype`: to model.safetensors, or, beyond `max_shard_bytes`, to numbered shards
/// with an index, as Transformers does. \throws ogpsa::FileError
void save_weights(CausalLm& model, const std::filesystem::path& folder, torch::ScalarType dtype,
                  std::uint64_t max_shard_bytes = 5'000'000'000);

}  // namespace align
