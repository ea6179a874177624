#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <string>

#include "model/model.hpp"

namespace align {

/// Tensors by name.
using Weights = std::map<std::string, torch::Tensor>;

/// float32, bfloat16 or float16, as in config.json. \throws ogpsa::InvalidArgument for another name
torch::ScalarType dtype_of(const std::string& name);
std::string dtype_name(torch::ScalarType dtype);

/// The tensors of a safetensors file, as views of the mapped file: do not write to them.
/// \throws ogpsa::FileError, also for a data type other than F64, F32, BF16, F16
Weights map_safetensors(const std::filesystem::path& file);
/// The tensors of model.safetensors, or of the shards that model.safetensors.index.json lists.
Weights map_weights(const std::filesystem::path& folder);

/// Copies tensors to those of the same names, in the data type of these. \param where  the file, for errors
/// \throws ogpsa::FileError naming a tensor that is missing, has no counterpart, or is of another shape; nothing is
/// then copied
void copy_weights(const Weights& from, const Weights& to, const std::string& where);
/// The same for all parameters of a model. Where embeddings are tied, an `lm_head.weight` is left out.
void load_weights(CausalLm& model, Weights weights, const std::string& where);

/// Writes tensors in `dtype`, to one file.
void write_safetensors(const std::filesystem::path& file, const Weights& weights, torch::ScalarType dtype);
/// Writes the model's parameters in `dtype`: to model.safetensors, or, beyond `max_shard_bytes`, to numbered shards
/// with an index, as Transformers does. \throws ogpsa::FileError
void save_weights(CausalLm& model, const std::filesystem::path& folder, torch::ScalarType dtype,
                  std::uint64_t max_shard_bytes = 5'000'000'000);

}  // namespace align
