#include "hugging_face/config.hpp"

#include <ogpsa/error.hpp>

#include "hugging_face/fields.hpp"

namespace align {
namespace {

using Json = nlohmann::json;

void read_rope_scaling(ModelConfig& config, const Json& json, const std::string& where) {
  Fields fields(json, where);
  const auto type = fields.get<std::string>("rope_type", fields.get<std::string>("type", "default"));
  config.rope_theta = fields.get<double>("rope_theta", config.rope_theta);
  if (type == "llama3") {
    config.rope_scaling = {fields.get<double>("factor"), fields.get<double>("low_freq_factor"),
                           fields.get<double>("high_freq_factor"),
                           fields.get<double>("original_max_position_embeddings")};
  } else if (type != "default") {
    fields.fail("rope_type '" + type + "' is not supported; known are default and llama3");
  }
  fields.finish();
}

/// Which of the two families, by model_type.
bool is_qwen2(Fields& fields) {
  const auto type = fields.get<std::string>("model_type");
  const auto architecture = type == "llama" ? "LlamaForCausalLM" : "Qwen2ForCausalLM";
  if (type != "llama" && type != "qwen2") {
    fields.fail("model_type '" + type + "' is not supported; known are llama and qwen2");
  }
  fields.require("architectures", Json::array({architecture}));
  return type == "qwen2";
}

/// What neither changes the logits nor the loss, or is read elsewhere (tokens, data types).
void ignore_harmless(Fields& fields) {
  fields.ignore({"_name_or_path",
                 "transformers_version",
                 "torch_dtype",
                 "dtype",
                 "use_cache",
                 "initializer_range",
                 "bos_token_id",
                 "eos_token_id",
                 "pad_token_id",
                 "max_position_embeddings",
                 "max_window_layers",
                 "sliding_window",
                 "is_llama_config",
                 "transformers.js_config",
                 "unsloth_fixed",
                 "unsloth_version",
                 "_attn_implementation",
                 "return_dict",
                 "output_attentions",
                 "output_hidden_states",
                 "is_decoder"});
}

}  // namespace

ModelConfig parse_config(const Json& json, const std::string& where) {
  Fields fields(json, where);
  ModelConfig c;
  const bool qwen2 = is_qwen2(fields);
  c.vocab_size = fields.get<std::int64_t>("vocab_size");
  c.hidden_size = fields.get<std::int64_t>("hidden_size");
  c.intermediate_size = fields.get<std::int64_t>("intermediate_size");
  c.num_hidden_layers = fields.get<std::int64_t>("num_hidden_layers");
  c.num_attention_heads = fields.get<std::int64_t>("num_attention_heads");
  c.num_key_value_heads = fields.get<std::int64_t>("num_key_value_heads", c.num_attention_heads);
  c.head_dim = fields.get<std::int64_t>("head_dim", 0);
  c.rms_norm_eps = fields.get<double>("rms_norm_eps", 1e-6);
  c.rope_theta = fields.get<double>("rope_theta", 10000.0);
  c.tie_word_embeddings = fields.get<bool>("tie_word_embeddings", false);
  c.qkv_bias = qwen2;
  if (fields.has("rope_scaling")) read_rope_scaling(c, fields.at("rope_scaling"), where + ": rope_scaling");
  if (fields.has("rope_parameters")) read_rope_scaling(c, fields.at("rope_parameters"), where + ": rope_parameters");
  fields.require("hidden_act", "silu");
  fields.require("attention_dropout", 0.0);
  fields.require("attention_bias", qwen2);
  fields.require("mlp_bias", false);
  fields.require("use_sliding_window", false);
  fields.require("rope_interleaved", false);
  fields.require("pretraining_tp", 1);
  fields.require("partial_rotary_factor", 1.0);
  if (fields.has("layer_types")) {
    for (const auto& type : fields.at("layer_types")) {
      if (type != "full_attention")
        fields.fail("layer_types has " + type.dump() + "; only \"full_attention\" is known");
    }
  }
  ignore_harmless(fields);
  fields.finish();
  try {
    check(c);
  } catch (const ogpsa::InvalidArgument& error) {
    fields.fail(error.what());
  }
  return c;
}

}  // namespace align
