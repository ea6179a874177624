#include "train/tensor_file.hpp"

#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <ogpsa/safetensors.hpp>
#include <vector>

#include "train/mapped_file.hpp"

namespace align {
namespace {

struct Dtype {
  torch::ScalarType torch;
  ogpsa::DType ogpsa;
};
constexpr Dtype kDtypes[] = {{torch::kFloat32, ogpsa::DType::float32},
                             {torch::kBFloat16, ogpsa::DType::bfloat16},
                             {torch::kFloat16, ogpsa::DType::float16},
                             {torch::kFloat64, ogpsa::DType::float64}};

ogpsa::DType ogpsa_dtype(torch::ScalarType dtype) {
  return std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const auto& d) { return d.torch == dtype; })->ogpsa;
}

/// Hands a tensor to the sink in pieces, so that no second copy of it comes to be.
void write_pieces(const torch::Tensor& tensor, torch::ScalarType dtype, const ogpsa::SafetensorsWriter::Sink& sink) {
  constexpr std::int64_t piece = 1 << 22;
  const torch::NoGradGuard no_grad;
  const auto flat = tensor.detach().contiguous().view({-1});
  for (std::int64_t first = 0; first < flat.numel(); first += piece) {
    const auto part = flat.slice(0, first, std::min(flat.numel(), first + piece)).to(torch::kCPU, dtype).contiguous();
    sink(part.data_ptr(), static_cast<std::size_t>(part.nbytes()));
  }
}

std::string shape_text(const torch::Tensor& tensor) { return fmt::format("{}", fmt::join(tensor.sizes(), " x ")); }

}  // namespace

Tensors map_safetensors(const std::filesystem::path& path) {
  const ogpsa::SafetensorsReader reader(path);
  const auto file = std::make_shared<const MappedFile>(path);
  Tensors tensors;
  for (const auto& [name, entry] : reader.header().tensors) {
    const auto* dtype = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&, &entry = entry](const auto& d) {
      return entry.dtype == ogpsa::dtype_name(d.ogpsa);
    });
    if (dtype == std::end(kDtypes)) {
      throw ogpsa::FileError(
          fmt::format("'{}': tensor '{}' is {}; only F64, F32, BF16 and F16 can be read (a quantised checkpoint has to "
                      "be converted)",
                      path.string(), name, entry.dtype));
    }
    const std::vector<std::int64_t> shape(entry.shape.begin(), entry.shape.end());
    auto* data = const_cast<std::byte*>(file->data() + reader.data_begin() + entry.begin);
    tensors[name] = torch::from_blob(
        data, shape, [file](void*) {}, torch::TensorOptions(dtype->torch));
  }
  return tensors;
}

void write_safetensors(const std::filesystem::path& file, const Tensors& tensors, torch::ScalarType dtype) {
  ogpsa::SafetensorsWriter writer;
  writer.metadata["format"] = "pt";  // Transformers asks for it
  for (const auto& [name, tensor] : tensors) {
    writer.add(name, ogpsa_dtype(dtype), {tensor.sizes().begin(), tensor.sizes().end()},
               [tensor = tensor, dtype](const auto& sink) { write_pieces(tensor, dtype, sink); });
  }
  writer.write(file);
}

void copy_tensors(const Tensors& from, const Tensors& to, const std::string& where) {
  const torch::NoGradGuard no_grad;
  const auto fail = [&](const std::string& what) { throw ogpsa::FileError("'" + where + "': " + what); };
  for (const auto& [name, tensor] : to) {
    const auto found = from.find(name);
    if (found == from.end()) fail("tensor '" + name + "' is missing");
    if (found->second.sizes() == tensor.sizes()) continue;
    fail(fmt::format("tensor '{}' is {}, but by the configuration it should be {}", name, shape_text(found->second),
                     shape_text(tensor)));
  }
  for (const auto& [name, tensor] : from) {
    if (to.count(name) == 0) fail("tensor '" + name + "' has no place in the model that the configuration describes");
  }
  for (const auto& [name, tensor] : to) torch::Tensor(tensor).copy_(from.at(name));
}

}  // namespace align
