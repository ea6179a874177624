#include "hugging_face/pretrained.hpp"

#include <fstream>
#include <nlohmann/json.hpp>

#include "hugging_face/config.hpp"
#include "train/checkpoint.hpp"

namespace align {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // fields stay where they are

Json read_config(const fs::path& folder) {
  const auto path = folder / "config.json";
  std::ifstream file(path);
  if (!file) {
    throw ogpsa::FileError("cannot read '" + path.string() + "'; give the folder of a Hugging Face checkpoint");
  }
  try {
    return Json::parse(file);
  } catch (const Json::exception& error) {
    throw ogpsa::FileError("'" + path.string() + "' is not JSON: " + error.what());
  }
}

/// Weights, in whatever format: those of the folder that is written would be others.
bool is_weights(const fs::path& file) {
  const auto name = file.filename().string();
  for (const auto* end : {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pth", ".pt", ".gguf",
                          ".h5", ".msgpack", ".onnx"}) {
    if (name.ends_with(end)) return true;
  }
  return false;
}

void copy_other_files(const fs::path& source, const fs::path& target) {
  for (auto entry = fs::recursive_directory_iterator(source); entry != fs::recursive_directory_iterator(); ++entry) {
    const auto to = target / fs::relative(entry->path(), source);
    if (entry->is_directory()) {
      if (entry->path().filename().string().starts_with(".")) entry.disable_recursion_pending();
    } else if (!is_weights(entry->path())) {
      fs::create_directories(to.parent_path());
      fs::copy_file(entry->path(), to, fs::copy_options::overwrite_existing);  // follows links, as caches have them
    }
  }
}

/// Puts a finished folder in the place of another, or of none.
void replace_folder(const fs::path& finished, const fs::path& target) {
  const auto old = fs::path(target.string() + ".old");
  fs::remove_all(old);
  if (fs::exists(target)) fs::rename(target, old);
  fs::rename(finished, target);
  fs::remove_all(old);
}

}  // namespace

torch::ScalarType configured_dtype(const fs::path& folder) {
  const auto config = read_config(folder);
  for (const auto* name : {"dtype", "torch_dtype"}) {
    if (config.contains(name) && config.at(name).is_string()) return dtype_of(config.at(name).get<std::string>());
  }
  return torch::kFloat32;
}

CausalLm load_pretrained(const fs::path& folder) {
  CausalLm model(parse_config(read_config(folder), (folder / "config.json").string()));
  load_weights(model, map_weights(folder), folder.string());
  return model;
}

void save_pretrained(CausalLm& model, const fs::path& source, const fs::path& target, torch::ScalarType dtype) {
  const auto temporary = fs::path(target.string() + ".tmp");
  fs::remove_all(temporary);
  fs::create_directories(temporary);
  copy_other_files(source, temporary);
  auto config = read_config(source);
  config[config.contains("dtype") ? "dtype" : "torch_dtype"] = dtype_name(dtype);
  write_file(temporary / "config.json", config.dump(2) + "\n");
  save_weights(model, temporary, dtype);
  replace_folder(temporary, target);
}

}  // namespace align
