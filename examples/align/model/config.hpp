#pragma once

#include <cstdint>
#include <optional>

namespace align {

/// Llama 3.1's stretching of the rotary positions: wavelengths beyond original_max_position_embeddings /
/// low_freq_factor are `factor` times as long, those below .../ high_freq_factor stay, with a ramp in between.
struct RopeScaling {
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  double original_max_position_embeddings = 0;
};

/// Sizes of a decoder of the Llama family. Fields are named as in config.json.
struct ModelConfig {
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 64;
  std::int64_t intermediate_size = 160;
  std::int64_t num_hidden_layers = 3;
  std::int64_t num_attention_heads = 4;
  std::int64_t num_key_value_heads = 2;
  std::int64_t head_dim = 0;  ///< 0: hidden_size / num_attention_heads
  double rope_theta = 10000.0;
  std::optional<RopeScaling> rope_scaling = {};
  double rms_norm_eps = 1e-5;
  bool tie_word_embeddings = true;
  bool qkv_bias = false;  ///< of q_proj, k_proj and v_proj (Qwen2)

  std::int64_t head_size() const { return head_dim > 0 ? head_dim : hidden_size / num_attention_heads; }
};

/// \throws ogpsa::InvalidArgument for sizes that do not fit together
void check(const ModelConfig& config);

}  // namespace align
