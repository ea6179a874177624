#pragma once

#include <torch/torch.h>

#include <filesystem>
#include <map>
#include <string>

/// \file
/// Tensors in safetensors files.

namespace align {

/// Tensors by name.
using Tensors = std::map<std::string, torch::Tensor>;

/// The tensors of a file, as views of the mapped file: do not write to them.
/// \throws ogpsa::FileError, also for a data type other than F64, F32, BF16, F16
Tensors map_safetensors(const std::filesystem::path& file);

/// Writes tensors in `dtype`. The file is there completely or not at all.
/// \throws ogpsa::FileError that says why; what was there before is then kept
void write_safetensors(const std::filesystem::path& file, const Tensors& tensors, torch::ScalarType dtype);

/// Copies tensors to those of the same names, in the data type of these. \param where  the file, for errors
/// \throws ogpsa::FileError naming a tensor that is missing, has no counterpart, or is of another shape; nothing is
/// then copied
void copy_tensors(const Tensors& from, const Tensors& to, const std::string& where);

}  // namespace align
