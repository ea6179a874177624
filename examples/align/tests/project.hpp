#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "hugging_face/weights.hpp"
#include "tests/support.hpp"
#include "tests/text_support.hpp"
#include "train/checkpoint.hpp"

namespace align::test {

inline nlohmann::json read(const std::filesystem::path& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

/// A checkpoint with the tokenizer of a fixture, and data files beside it.
class Project {
 public:
  Project() {
    const auto fixture = text_fixture("smollm");
    std::filesystem::create_directories(model());
    write_file(model() / "tokenizer.json", fixture.at("tokenizer").dump());
    write_file(model() / "tokenizer_config.json",
               nlohmann::json{{"bos_token", "<|im_start|>"}, {"eos_token", "<|im_end|>"}}.dump());
    auto config = tiny_config();
    config.vocab_size = BpeTokenizer(model()).size();
    write_file(model() / "config.json", nlohmann::json{{"model_type", "llama"},
                                                       {"vocab_size", config.vocab_size},
                                                       {"hidden_size", config.hidden_size},
                                                       {"intermediate_size", config.intermediate_size},
                                                       {"num_hidden_layers", config.num_hidden_layers},
                                                       {"num_attention_heads", config.num_attention_heads},
                                                       {"num_key_value_heads", config.num_key_value_heads},
                                                       {"rms_norm_eps", config.rms_norm_eps},
                                                       {"tie_word_embeddings", true}}
                                            .dump());
    auto weights = tiny_model(2, config);
    save_weights(weights, model(), torch::kFloat32);
    write_rows();
  }

  std::filesystem::path model() const { return folder_.path() / "model"; }
  std::filesystem::path operator/(const std::string& name) const { return folder_.path() / name; }

 private:
  void write_rows() const {
    const char* nouns[] = {"the station", "a lock", "the oven", "a letter", "the baker", "a ladder", "the church"};
    std::string safety, pairs, general, prompts;
    for (const auto* noun : nouns) {
      const auto ask = std::string("How do I break ") + noun + "?";
      safety += nlohmann::json{{"instruction", ask}, {"input", ""}, {"output", "I will not help."}}.dump() + "\n";
      pairs += nlohmann::json{{"prompt", ask}, {"chosen", "No."}, {"rejected", std::string("Hit ") + noun + " hard."}}
                   .dump() +
               "\n";
      general +=
          nlohmann::json{{"messages",
                          nlohmann::json::array({{{"role", "user"}, {"content", std::string("Where is ") + noun + "?"}},
                                                 {{"role", "assistant"}, {"content", "Behind you."}}})}}
              .dump() +
          "\n";
      prompts += nlohmann::json{{"prompt", ask}, {"category", "x"}}.dump() + "\n";
    }
    write_file(*this / "safety.jsonl", safety);
    write_file(*this / "pairs.jsonl", pairs);
    write_file(*this / "general.jsonl", general);
    write_file(*this / "prompts.jsonl", prompts);
  }

  TemporaryFolder folder_;
};

}  // namespace align::test
