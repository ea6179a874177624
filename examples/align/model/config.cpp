#include "model/config.hpp"

#include <algorithm>
#include <ogpsa/error.hpp>
#include <string>

namespace align {

void check(const ModelConfig& c) {
  const auto require = [](bool holds, const std::string& what) {
    if (!holds) throw ogpsa::InvalidArgument("model: " + what);
  };
  require(std::min({c.vocab_size, c.hidden_size, c.intermediate_size, c.num_hidden_layers, c.num_attention_heads,
                    c.num_key_value_heads}) > 0,
          "vocab_size, hidden_size, intermediate_size and the numbers of layers and heads must be positive");
  require(c.head_dim > 0 || c.hidden_size % c.num_attention_heads == 0,
          "hidden_size " + std::to_string(c.hidden_size) + " must be a multiple of num_attention_heads " +
              std::to_string(c.num_attention_heads) + " where there is no head_dim");
  require(c.head_size() % 2 == 0, "the head size " + std::to_string(c.head_size()) +
                                      " must be even, since rotary positions turn pairs; change hidden_size");
  require(c.num_attention_heads % c.num_key_value_heads == 0,
          "num_attention_heads " + std::to_string(c.num_attention_heads) + " must be a multiple of " +
              "num_key_value_heads " + std::to_string(c.num_key_value_heads));
  require(c.rope_theta > 0 && c.rms_norm_eps > 0, "rope_theta and rms_norm_eps must be positive");
  if (!c.rope_scaling) return;
  const auto& s = *c.rope_scaling;
  require(s.factor >= 1 && s.low_freq_factor > 0 && s.high_freq_factor > s.low_freq_factor &&
              s.original_max_position_embeddings > 0,
          "rope_scaling needs factor >= 1, 0 < low_freq_factor < high_freq_factor, and a positive "
          "original_max_position_embeddings");
}

}  // namespace align
