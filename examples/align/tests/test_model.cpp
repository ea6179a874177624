#include <doctest/doctest.h>

#include <cmath>
#include <ogpsa/error.hpp>

#include "model/decode.hpp"
#include "tests/support.hpp"

using namespace align;
using namespace align::test;

namespace {

torch::Tensor random_ids(std::int64_t rows, std::int64_t tokens, std::uint64_t seed) {
  Random random(seed);
  Tokens ids;
  for (std::int64_t i = 0; i < rows * tokens; ++i) ids.push_back(static_cast<std::int64_t>(random.below(kVocabulary)));
  return torch::tensor(ids, torch::kInt64).view({rows, tokens});
}

/// The rotary embedding of one head's vector, written with complex numbers in double.
std::vector<double> rotated(const torch::Tensor& x, double position, double theta) {
  const auto half = x.size(0) / 2;
  std::vector<double> y(static_cast<std::size_t>(2 * half));
  for (std::int64_t i = 0; i < half; ++i) {
    const double angle = position * std::pow(theta, -static_cast<double>(2 * i) / static_cast<double>(2 * half));
    const double re = x[i].item<double>(), im = x[i + half].item<double>();
    y[static_cast<std::size_t>(i)] = re * std::cos(angle) - im * std::sin(angle);
    y[static_cast<std::size_t>(i + half)] = im * std::cos(angle) + re * std::sin(angle);
  }
  return y;
}

/// Causal attention of one row (T x C), head by head and token by token, in double.
torch::Tensor attention_by_loops(AttentionImpl& attention, const torch::Tensor& x, const ModelConfig& c) {
  const auto weight = [&](const std::string& name) { return attention.named_parameters()[name + ".weight"].detach(); };
  const auto tokens = x.size(0), size = c.head_size();
  const auto q = torch::matmul(x, weight("q_proj").t()), k = torch::matmul(x, weight("k_proj").t()),
             v = torch::matmul(x, weight("v_proj").t());
  auto mixed = torch::zeros({tokens, c.num_attention_heads * size}, torch::kFloat64);
  for (std::int64_t h = 0; h < c.num_attention_heads; ++h) {
    const auto g = h / (c.num_attention_heads / c.num_key_value_heads);
    for (std::int64_t t = 0; t < tokens; ++t) {
      const auto query = rotated(q[t].slice(0, h * size, (h + 1) * size), static_cast<double>(t), c.rope_theta);
      std::vector<double> scores;
      double sum = 0;
      for (std::int64_t s = 0; s <= t; ++s) {
        const auto key = rotated(k[s].slice(0, g * size, (g + 1) * size), static_cast<double>(s), c.rope_theta);
        double dot = 0;
        for (std::size_t i = 0; i < key.size(); ++i) dot += query[i] * key[i];
        scores.push_back(std::exp(dot / std::sqrt(static_cast<double>(size))));
        sum += scores.back();
      }
      for (std::int64_t s = 0; s <= t; ++s) {
        mixed[t].slice(0, h * size, (h + 1) * size) +=
            scores[static_cast<std::size_t>(s)] / sum * v[s].slice(0, g * size, (g + 1) * size).to(torch::kFloat64);
      }
    }
  }
  return torch::matmul(mixed, weight("o_proj").t().to(torch::kFloat64));
}

AttentionInput causal_input(std::int64_t tokens, const ModelConfig& c) {
  const auto position = torch::arange(tokens);
  const auto mask =
      torch::zeros({tokens, tokens}).masked_fill(position.unsqueeze(0) > position.unsqueeze(1), -INFINITY);
  return {RotaryAngles(position, rotary_frequencies(c)), mask};
}

}  // namespace

TEST_CASE("RMSNorm is x / sqrt(mean(x^2) + eps) times its weight") {
  RmsNorm norm(6, 1e-5);
  auto x = torch::randn({3, 6}) * 7;
  const auto weight = torch::rand(6) + 0.5;
  const torch::NoGradGuard no_grad;
  norm->named_parameters()["weight"].copy_(weight);
  const auto y = norm(x);
  for (std::int64_t i = 0; i < 3; ++i) {
    double squares = 0;
    for (std::int64_t j = 0; j < 6; ++j) squares += std::pow(x[i][j].item<double>(), 2);
    for (std::int64_t j = 0; j < 6; ++j) {
      const double expected = x[i][j].item<double>() / std::sqrt(squares / 6 + 1e-5) * weight[j].item<double>();
      CHECK(y[i][j].item<double>() == doctest::Approx(expected).epsilon(1e-6));
    }
  }
}

TEST_CASE("rotary positions: scores depend on the distance alone, lengths stay") {
  auto config = tiny_config();
  config.head_dim = 8;
  const auto q = torch::randn({1, 1, 1, 8}), k = torch::randn({1, 1, 1, 8});
  const auto at = [&](const torch::Tensor& x, std::int64_t position) {
    return RotaryAngles(torch::tensor({position}), rotary_frequencies(config)).rotate(x);
  };
  const auto score = [&](std::int64_t m, std::int64_t n) { return (at(q, m) * at(k, n)).sum().item<double>(); };
  CHECK(score(7, 3) == doctest::Approx(score(104, 100)).epsilon(1e-4));
  CHECK(score(3, 7) == doctest::Approx(score(100, 104)).epsilon(1e-4));
  CHECK(std::abs(score(7, 3) - score(7, 4)) > 1e-3);
  CHECK(at(q, 55).norm().item<double>() == doctest::Approx(q.norm().item<double>()).epsilon(1e-5));
  CHECK(largest_difference(at(q, 0), q) == 0);
}

TEST_CASE("grouped-query attention equals attention written with loops") {
  for (const std::int64_t kv_heads : {1, 2, 4}) {
    auto config = tiny_config();
    config.num_key_value_heads = kv_heads;
    Attention attention(config);
    const auto x = torch::randn({5, config.hidden_size});
    const torch::NoGradGuard no_grad;
    const auto y = attention(x.unsqueeze(0), causal_input(5, config), nullptr)[0].to(torch::kFloat64);
    CHECK(largest_difference(y, attention_by_loops(*attention, x, config)) < 1e-5);
  }
}

TEST_CASE("hidden states do not depend on later tokens") {
  auto model = tiny_model();
  const auto ids = random_ids(2, 8, 3);
  auto changed = ids.clone();
  changed.slice(1, 5) = (changed.slice(1, 5) + 1) % kVocabulary;
  const auto a = model->hidden(ids), b = model->hidden(changed);
  CHECK(largest_difference(a.slice(1, 0, 5), b.slice(1, 0, 5)) == 0);
  CHECK(largest_difference(a.slice(1, 5), b.slice(1, 5)) > 1e-3);
}

TEST_CASE("a key-value cache gives the hidden states of the full pass") {
  auto model = tiny_model();
  const auto ids = random_ids(3, 9, 4);
  const auto full = model->hidden(ids);
  KeyValueCache cache;
  std::vector<torch::Tensor> parts;
  for (const auto& [first, last] : {std::pair{0, 4}, {4, 5}, {5, 9}}) {
    parts.push_back(model->hidden(ids.slice(1, first, last), &cache));
  }
  CHECK(cache.length() == 9);
  CHECK(largest_difference(torch::cat(parts, 1), full) < 1e-5);
}

TEST_CASE("padding at the left changes nothing") {
  auto model = tiny_model();
  const auto ids = random_ids(1, 6, 5);
  const auto padded = torch::cat({torch::zeros({1, 3}, torch::kInt64), ids}, 1);
  const auto a = model->hidden(ids);
  const auto b = model->hidden(padded, nullptr, torch::tensor({3}));
  CHECK(largest_difference(a, b.slice(1, 3)) < 1e-5);
  CHECK(b.isfinite().all().item<bool>());
}

TEST_CASE("greedy decoding equals the argmax of full passes, prompt by prompt") {
  auto config = tiny_config();
  config.tie_word_embeddings = false;  // with random weights, a tied model repeats its last token
  auto model = tiny_model(7, config);
  const torch::NoGradGuard no_grad;
  std::vector<Tokens> prompts = {{1, 5, 7, 2}, {1, 9, 2}, {1, 3, 3, 8, 11, 2}, {1, 2}};
  const auto answers = greedy(model, prompts, /*end=*/0, /*max_new_tokens=*/7, /*batch_size=*/3);
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    Tokens text = prompts[i], expected;
    while (expected.size() < 7) {
      const auto hidden = model->hidden(torch::tensor(text, torch::kInt64).unsqueeze(0));
      const auto next = model->logits(hidden[0][-1]).argmax().item<std::int64_t>();
      if (next == 0) break;
      expected.push_back(next);
      text.push_back(next);
    }
    CHECK(answers[i] == expected);
  }
  // With another token as the end of turn, an answer stops before the first of these.
  std::size_t longest = 0;
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    for (const auto end : answers[i]) {
      const Tokens expected(answers[i].begin(), std::find(answers[i].begin(), answers[i].end(), end));
      CHECK(greedy(model, {prompts[i]}, end, 7)[0] == expected);
      longest = std::max(longest, expected.size());
    }
  }
  CHECK(longest > 0);
}

TEST_CASE("parameters are named as in Hugging Face checkpoints, and tied embeddings count once") {
  auto config = tiny_config();
  const auto names = CausalLm(config)->named_parameters();
  CHECK(names.contains("model.embed_tokens.weight"));
  CHECK(names.contains("model.layers.1.self_attn.k_proj.weight"));
  CHECK(names.contains("model.layers.0.mlp.gate_proj.weight"));
  CHECK(names.contains("model.layers.0.post_attention_layernorm.weight"));
  CHECK(names.contains("model.norm.weight"));
  CHECK(!names.contains("lm_head.weight"));
  CHECK(names["model.layers.0.self_attn.k_proj.weight"].size(0) == 8);
  config.tie_word_embeddings = false;
  CHECK(CausalLm(config)->named_parameters().contains("lm_head.weight"));
}

TEST_CASE("initial weights are a function of the seed") {
  auto a = tiny_model(3), b = tiny_model(3), c = tiny_model(4);
  CHECK(largest_difference(weights(a), weights(b)) == 0);
  CHECK(largest_difference(weights(a), weights(c)) > 0.1);
}

TEST_CASE("sizes that do not fit together are named") {
  auto config = tiny_config();
  config.num_key_value_heads = 3;
  CHECK_THROWS_WITH_AS(CausalLm{config}, doctest::Contains("num_key_value_heads 3"), ogpsa::InvalidArgument);
  config = tiny_config();
  config.hidden_size = 18;
  CHECK_THROWS_WITH_AS(CausalLm{config}, doctest::Contains("hidden_size 18"), ogpsa::InvalidArgument);
}
