#include "hugging_face/weights.hpp"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "train/checkpoint.hpp"

namespace align {
namespace {

constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

constexpr std::pair<torch::ScalarType, const char*> kDtypes[] = {{torch::kFloat32, "float32"},
                                                                 {torch::kBFloat16, "bfloat16"},
                                                                 {torch::kFloat16, "float16"},
                                                                 {torch::kFloat64, "float64"}};

/// The file of each tensor.
std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  try {
    return nlohmann::json::parse(std::ifstream(path)).at("weight_map").get<std::map<std::string, std::string>>();
  } catch (const nlohmann::json::exception& error) {
    throw ogpsa::FileError("'" + path.string() + "' is not an index of shards: " + error.what());
  }
}

}  // namespace

torch::ScalarType dtype_of(const std::string& name) {
  for (const auto& [dtype, known] : kDtypes) {
    if (name == known) return dtype;
  }
  throw ogpsa::InvalidArgument("there is no data type '" + name + "'; use float32, bfloat16 or float16");
}

std::string dtype_name(torch::ScalarType dtype) {
  for (const auto& [known, name] : kDtypes) {
    if (known == dtype) return name;
  }
  return "?";
}

Tensors map_weights(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / kWeightsFile)) return map_safetensors(folder / kWeightsFile);
  if (!std::filesystem::exists(folder / kIndexFile)) {
    throw ogpsa::FileError(fmt::format("'{}' has neither {} nor {}; other formats of weights are not read",
                                       folder.string(), kWeightsFile, kIndexFile));
  }
  std::map<std::string, Tensors> shards;
  Tensors weights;
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

void load_weights(CausalLm& model, Tensors weights, const std::string& where) {
  std::erase_if(weights, [](const auto& tensor) {
    return tensor.first.ends_with(".rotary_emb.inv_freq");  // old checkpoints; config.json says the same
  });
  const auto head = weights.find(kHead);
  if (model->config().tie_word_embeddings && head != weights.end()) {
    const auto& embedding = weights.emplace(kEmbedding, head->second).first->second;
    if (!torch::equal(head->second, embedding)) {
      throw ogpsa::FileError(
          fmt::format("'{}': '{}' and '{}' differ, but config.json says tie_word_embeddings; set it "
                      "to false to use both",
                      where, kHead, kEmbedding));
    }
    weights.erase(head);
  }
  Tensors parameters;
  for (const auto& item : model->named_parameters()) parameters[item.key()] = item.value();
  copy_tensors(weights, parameters, where);
}

void save_weights(CausalLm& model, const std::filesystem::path& folder, torch::ScalarType dtype,
                  std::uint64_t max_shard_bytes) {
  std::vector<Tensors> shards(1);
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
