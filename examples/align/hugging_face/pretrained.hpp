#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "hugging_face/weights.hpp"

namespace align {

/// The model of a Hugging Face folder (config.json and safetensors), in float32.
/// \throws ogpsa::FileError, ogpsa::InvalidArgument
CausalLm load_pretrained(const std::filesystem::path& folder);

/// Writes a folder that Hugging Face tools load: the weights in `dtype`, config.json of `source` with that data type,
/// and all other files of `source` (tokenizer, generation_config, licence ...) but its weights. The folder is there
/// completely or not at all. \throws ogpsa::FileError; what was there before is then kept
void save_pretrained(CausalLm& model, const std::filesystem::path& source, const std::filesystem::path& target,
                     torch::ScalarType dtype);

/// Data type of the weights that config.json names (dtype, torch_dtype); float32 where it names none.
torch::ScalarType configured_dtype(const std::filesystem::path& folder);

}  // namespace align
