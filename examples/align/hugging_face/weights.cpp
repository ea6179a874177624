#include "hugging_face/weights.hpp"

#include <fmt/ranges.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <ogpsa/safetensors.hpp>
#include <utility>
#include <vector>

#include "hugging_face/mapped_file.hpp"
#include "train/checkpoint.hpp"

namespace align {
namespace {

constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

struct DtypeName {
  torch::ScalarType dtype;
  const char *config, *safetensors;
};
constexpr DtypeName kDtypes[] = {{torch::kFloat32, "float32", "F32"},
                                 {torch::kBFloat16, "bfloat16", "BF16"},
                                 {torch::kFloat16, "float16", "F16"},
                                 {torch::kFloat64, "float64", "F64"}};

ogpsa::DType ogpsa_dtype(torch::ScalarType dtype) {
  switch (dtype) {
    case torch::kBFloat16:
      return ogpsa::DType::bfloat16;
    case torch::kFloat16:
      return ogpsa::DType::float16;
    case torch::kFloat64:
      return ogpsa::DType::float64;
    default:
      return ogpsa::DType::float32;
  }
}

/// The file of each tensor.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  try {
    return nlohmann::json::parse(std::ifstream(path)).at("weight_map").get<std::map<std::string, std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw ogpsa::FileError("'" + path.string() + "' is not an index of shards: " + error.what());
  }
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

torch::ScalarType dtype_of(const std::string& name) {
  for (const auto& d : kDtypes) {
    if (d.config == name) return d.dtype;
  }
  throw ogpsa::InvalidArgument("there is no data type '" + name + "'; use float32, bfloat16 or float16");
}

std::string dtype_name(torch::ScalarType dtype) {
  for (const auto& d : kDtypes) {
    if (d.dtype == dtype) return d.config;
  }
  return "?";
}

Weights map_safetensors(const std::filesystem::path& path) {
  const ogpsa::SafetensorsReader reader(path);
  const auto file = std::make_shared<const MappedFile>(path);
  Weights weights;
  for (const auto& [name, entry] : reader.header().tensors) {
    const auto* dtype = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                     [&, &entry = entry](const auto& d) { return entry.dtype == d.safetensors; });
    if (dtype == std::end(kDtypes)) {
      throw ogpsa::FileError(
          fmt::format("'{}': tensor '{}' is {}; only F64, F32, BF16 and F16 can be read (a quantised checkpoint has to "
                      "be converted)",
                      path.string(), name, entry.dtype));
    }
    const std::vector<std::int64_t> shape(entry.shape.begin(), entry.shape.end());
    auto* data = const_cast<std::byte*>(file->data() + reader.data_begin() + entry.begin);
    weights[name] = torch::from_blob(
        data, shape, [file](void*) {}, torch::TensorOptions(dtype->dtype));
  }
  return weights;
}

Weights map_weights(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / kWeightsFile)) return map_safetensors(folder / kWeightsFile);
  if (!std::filesystem::exists(folder / kIndexFile)) {
    throw ogpsa::FileError(fmt::format("'{}' has neither {} nor {}; other formats of weights are not read",
                                       folder.string(), kWeightsFile, kIndexFile));
  }
  std::map<std::string, Weights> shards;
  Weights weights;
  for (const auto& [name, file] : read_index(folder / kIndexFile)) {
    if (shards.count(file) == 0) shards[file] = map_safetensors(folder / file);
    const auto tensor = shards[file].find(name);
    if (tensor == shards[file].end()) {
      throw ogpsa::FileError(
          fmt::format("'{}' has no tensor '{}', which {} says it has", (folder / file).string(), name, kIndexFile));
    }
    weights.insert(*tensor);
  }
  return weights;
}

void copy_weights(const Weights& from, const Weights& to, const std::string& where) {
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

void load_weights(CausalLm& model, Weights weights, const std::string& where) {
  Weights parameters;
  for (const auto& item : model->named_parameters()) parameters[item.key()] = item.value();
  std::erase_if(weights, [&](const auto& tensor) {
    const bool tied = model->config().tie_word_embeddings && tensor.first == "lm_head.weight";
    return tied || tensor.first.ends_with(".rotary_emb.inv_freq");  // old checkpoints; config.json says the same
  });
  copy_weights(weights, parameters, where);
}

void write_safetensors(const std::filesystem::path& file, const Weights& weights, torch::ScalarType dtype) {
  ogpsa::SafetensorsWriter writer;
  writer.metadata["format"] = "pt";  // Transformers asks for it
  for (const auto& [name, tensor] : weights) {
    writer.add(name, ogpsa_dtype(dtype), {tensor.sizes().begin(), tensor.sizes().end()},
               [tensor = tensor, dtype](const auto& sink) { write_pieces(tensor, dtype, sink); });
  }
  writer.write(file);
}

void save_weights(CausalLm& model, const std::filesystem::path& folder, torch::ScalarType dtype,
                  std::uint64_t max_shard_bytes) {
  std::vector<Weights> shards(1);
  std::uint64_t total = 0, used = 0;
  for (const auto& item : model->named_parameters()) {
    const auto bytes = static_cast<std::uint64_t>(item.value().numel()) * torch::elementSize(dtype);
    if (used > 0 && used + bytes > max_shard_bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back()[item.key()] = item.value();
    used += bytes;
    total += bytes;
  }
  if (shards.size() == 1) return write_safetensors(folder / kWeightsFile, shards[0], dtype);
  nlohmann::json index = {{"metadata", {{"total_size", total}}}};
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const auto name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
    write_safetensors(folder / name, shards[i], dtype);
    for (const auto& [tensor, value] : shards[i]) index["weight_map"][tensor] = name;
  }
  write_file(folder / kIndexFile, index.dump(2) + "\n");
}

}  // namespace align
