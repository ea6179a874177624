#pragma once

#include <string>
#include <vector>

#include "ogpsa/ogpsa.hpp"

namespace bench {

/// The 272 tensors of a Llama of 135 million parameters (SmolLM2-135M): name, rows, columns. With fewer than its 30
/// layers it has as many fewer.
inline std::vector<ogpsa::BlockSpec> llama_135m(ogpsa::Form form = ogpsa::Form::flat, ogpsa::Index layers = 30) {
  std::vector<ogpsa::BlockSpec> blocks = {{.name = "embed_tokens", .rows = 49152, .cols = 576}};
  const auto matrix = [&](const std::string& name, ogpsa::Index rows, ogpsa::Index cols) {
    blocks.push_back({.name = name, .rows = rows, .cols = cols, .form = form});
  };
  for (ogpsa::Index layer = 0; layer < layers; ++layer) {
    const std::string prefix = "layers." + std::to_string(layer) + '.';
    matrix(prefix + "q_proj", 576, 576);
    matrix(prefix + "k_proj", 192, 576);
    matrix(prefix + "v_proj", 192, 576);
    matrix(prefix + "o_proj", 576, 576);
    matrix(prefix + "gate_proj", 1536, 576);
    matrix(prefix + "up_proj", 1536, 576);
    matrix(prefix + "down_proj", 576, 1536);
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) {
      blocks.push_back({.name = prefix + norm, .cols = 576});
    }
  }
  blocks.push_back({.name = "norm", .cols = 576});
  return blocks;
}

}  // namespace bench
