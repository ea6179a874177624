#pragma once

#include <unistd.h>

#include <filesystem>
#include <string>
#include <vector>

#include "train/loss.hpp"
#include "train/random.hpp"

/// Small models, rows and folders for the tests.

namespace align::test {

inline constexpr std::int64_t kVocabulary = 20;

inline ModelConfig tiny_config() {
  return {.vocab_size = kVocabulary,
          .hidden_size = 16,
          .intermediate_size = 24,
          .num_hidden_layers = 2,
          .num_attention_heads = 4,
          .num_key_value_heads = 2};
}

inline CausalLm tiny_model(std::uint64_t seed = 1, ModelConfig config = tiny_config()) {
  CausalLm model(config);
  initialize(model, seed);
  return model;
}

/// Conversations of random tokens with prompts and answers of different lengths, some with two answers; 0 is end of
/// turn and padding.
inline std::vector<Example> random_examples(std::size_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<Example> examples(count);
  for (auto& e : examples) {
    const auto answer_begin = static_cast<std::size_t>(2 + random.below(4));
    const auto length = answer_begin + 1 + random.below(5);
    Tokens tokens;
    while (tokens.size() + 1 < length) tokens.push_back(1 + static_cast<std::int64_t>(random.below(kVocabulary - 1)));
    tokens.push_back(0);
    e = Example(std::move(tokens), answer_begin);
    if (random.below(2) == 0) e.answer[1] = true;  // a turn before that
  }
  return examples;
}

inline Tokens first_rows(std::int64_t count) {
  Tokens rows;
  for (std::int64_t i = 0; i < count; ++i) rows.push_back(i);
  return rows;
}

/// All parameters as one vector.
inline torch::Tensor weights(CausalLm& model) {
  std::vector<torch::Tensor> parts;
  for (const auto& p : model->parameters()) parts.push_back(p.detach().flatten());
  return torch::cat(parts).clone();
}

inline torch::Tensor gradient(CausalLm& model, const torch::Tensor& loss) {
  std::vector<torch::Tensor> parts;
  for (const auto& g : torch::autograd::grad({loss}, model->parameters())) parts.push_back(g.flatten());
  return torch::cat(parts);
}

inline double largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

/// A folder that goes away with this.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("ogpsa_align_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace align::test
