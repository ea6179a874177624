#include "hugging_face/adapter.hpp"

#include <nlohmann/json.hpp>

#include "model/lora.hpp"
#include "train/checkpoint.hpp"

namespace align {

void save_adapter(CausalLm& model, const std::filesystem::path& folder, const std::string& base, std::int64_t rank,
                  double alpha, const std::vector<std::string>& targets, torch::ScalarType dtype) {
  std::filesystem::create_directories(folder);
  Weights weights;
  for (auto& [name, tensor] : adapter_parameters(model)) weights[name] = tensor;
  write_safetensors(folder / "adapter_model.safetensors", weights, dtype);
  const nlohmann::ordered_json config = {{"peft_type", "LORA"},
                                         {"task_type", "CAUSAL_LM"},
                                         {"base_model_name_or_path", base},
                                         {"r", rank},
                                         {"lora_alpha", alpha},
                                         {"lora_dropout", 0.0},
                                         {"bias", "none"},
                                         {"fan_in_fan_out", false},
                                         {"inference_mode", true},
                                         {"init_lora_weights", true},
                                         {"target_modules", targets}};
  write_file(folder / "adapter_config.json", config.dump(2) + "\n");
}

}  // namespace align
