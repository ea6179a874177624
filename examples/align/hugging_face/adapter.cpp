#include "hugging_face/adapter.hpp"

#include <fmt/format.h>

#include <cmath>

#include "hugging_face/fields.hpp"
#include "train/json_file.hpp"

namespace align {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";

/// \param modules  names of layers, or PEFT's word for all of them
std::vector<std::string> target_modules(Fields& fields) {
  if (!fields.has("target_modules")) fields.fail("has no 'target_modules'; list the layers that are adapted");
  const auto& modules = fields.at("target_modules");
  if (modules == "all-linear") return LoraOptions().lora_target_modules;
  if (modules.is_string()) {
    fields.fail("'target_modules' is the regular expression " + modules.dump() + "; list the layers' names instead");
  }
  return fields.get<std::vector<std::string>>("target_modules");
}

}  // namespace

ModelFolders find_model(const fs::path& model, const fs::path& adapter) {
  if (!fs::exists(model / kConfigFile)) return {model, adapter};
  if (!adapter.empty()) {
    throw ogpsa::InvalidArgument(
        fmt::format("'{}' is an adapter, and so is '{}'; give the folder of their checkpoint, and one of them",
                    model.string(), adapter.string()));
  }
  const auto base = read_json(model / kConfigFile).value("base_model_name_or_path", nlohmann::json());
  if (base.is_string() && fs::exists(fs::path(base.get<std::string>()) / "config.json")) {
    return {base.get<std::string>(), model};
  }
  throw ogpsa::InvalidArgument(fmt::format(
      "'{}' is an adapter of {}, which is not the folder of a checkpoint here; give --model_name_or_path CHECKPOINT "
      "--adapter {}",
      model.string(), base.is_null() ? "an unnamed model" : base.dump(), model.string()));
}

LoraOptions adapter_options(const fs::path& folder) {
  const auto json = read_json(folder / kConfigFile);
  Fields fields(json, "'" + (folder / kConfigFile).string() + "'");
  fields.require("peft_type", "LORA");
  fields.require("task_type", "CAUSAL_LM");
  fields.require("bias", "none");
  LoraOptions options{fields.get<std::int64_t>("r"), fields.get<double>("lora_alpha"), target_modules(fields)};
  if (options.lora_r < 1) fields.fail("'r' must be positive");
  if (fields.get<bool>("use_rslora", false)) options.lora_alpha *= std::sqrt(static_cast<double>(options.lora_r));
  // Other ways to initialise change the base model.
  if (fields.has("init_lora_weights") && fields.at("init_lora_weights") != "gaussian") {
    fields.get<bool>("init_lora_weights");
  }
  fields.ignore({"base_model_name_or_path", "peft_version", "revision", "inference_mode", "lora_dropout",
                 "auto_mapping", "megatron_core", "qalora_group_size"});
  fields.ignore_unused();
  fields.finish();
  return options;
}

void load_adapter(CausalLm& model, const fs::path& folder) {
  const auto options = adapter_options(folder);
  if (!fs::exists(folder / kWeightsFile)) {
    throw ogpsa::FileError(fmt::format("'{}' has no {}; other formats are not read", folder.string(), kWeightsFile));
  }
  try {
    add_adapters(model, options, /*seed=*/0);
  } catch (const ogpsa::InvalidArgument& error) {
    throw ogpsa::InvalidArgument("'" + folder.string() + "': " + error.what());
  }
  copy_tensors(map_safetensors(folder / kWeightsFile), adapter_parameters(model), (folder / kWeightsFile).string());
}

void save_adapter(CausalLm& model, const fs::path& folder, const std::string& base, const LoraOptions& options,
                  torch::ScalarType dtype) {
  fs::create_directories(folder);
  write_safetensors(folder / kWeightsFile, adapter_parameters(model), dtype);
  const nlohmann::ordered_json config = {{"peft_type", "LORA"},
                                         {"task_type", "CAUSAL_LM"},
                                         {"base_model_name_or_path", base},
                                         {"r", options.lora_r},
                                         {"lora_alpha", options.lora_alpha},
                                         {"lora_dropout", 0.0},
                                         {"bias", "none"},
                                         {"fan_in_fan_out", false},
                                         {"inference_mode", true},
                                         {"init_lora_weights", true},
                                         {"target_modules", options.lora_target_modules}};
  write_file(folder / kConfigFile, config.dump(2) + "\n");
}

}  // namespace align
