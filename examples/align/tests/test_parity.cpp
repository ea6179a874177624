// Against Transformers and TRL: see fixtures/make_parity_fixtures.py.

#include <doctest/doctest.h>

#include "hugging_face/pretrained.hpp"
#include "tests/support.hpp"
#include "train/dpo.hpp"

using namespace align;
using namespace align::test;

namespace {

std::filesystem::path folder_of(const std::string& name) {
  return std::filesystem::path(OGPSA_ALIGN_TESTS_DIR) / "fixtures" / "parity" / name;
}

/// Rows of a batch as it stands in a fixture: PREFIX ids, mask, answer.
std::vector<Example> examples_of(const Tensors& expected, const std::string& prefix) {
  std::vector<Example> examples;
  const auto &ids = expected.at(prefix + "ids"), &mask = expected.at(prefix + "mask");
  for (std::int64_t row = 0; row < ids.size(0); ++row) {
    Tokens tokens;
    std::vector<bool> answer;
    for (std::int64_t t = 0; t < ids.size(1); ++t) {
      if (mask[row][t].item<double>() == 0) continue;
      tokens.push_back(static_cast<std::int64_t>(ids[row][t].item<double>()));
      answer.push_back(expected.at(prefix + "answer")[row][t].item<double>() == 1);
    }
    examples.emplace_back(std::move(tokens), std::move(answer));
  }
  return examples;
}

double relative_difference(const torch::Tensor& a, const torch::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

void check_gradients(CausalLm& model, const Tensors& expected, const std::string& prefix) {
  for (auto& item : model->named_parameters()) {
    CAPTURE(item.key());
    CHECK(relative_difference(item.value().grad(), expected.at(prefix + "." + item.key())) < 1e-4);
    item.value().mutable_grad() = torch::Tensor();
  }
}

}  // namespace

TEST_CASE("parity: logits, SFT loss and its gradients equal Transformers'") {
  for (const auto* name : {"llama3.1", "smollm2", "qwen2.5"}) {
    CAPTURE(name);
    const auto expected = map_safetensors(folder_of(name) / "expected.safetensors");
    auto model = load_pretrained(folder_of(name));
    const auto ids = expected.at("ids").to(torch::kInt64);
    const auto logits = model->logits(model->hidden(ids)) * expected.at("mask").unsqueeze(-1);
    CHECK(relative_difference(logits, expected.at("logits")) < 1e-5);
    // The rows one by one, as sums: their mean is over the answer tokens of all.
    const SftLoss loss(examples_of(expected, ""), /*padding=*/0);
    double weight = 0;
    torch::Tensor sum = torch::zeros({});
    for (std::int64_t row = 0; row < loss.rows(); ++row) {
      weight += loss.weight(row);
      sum = sum + loss.sum(model, Tokens{row});
    }
    CHECK(sum.item<double>() / weight == doctest::Approx(expected.at("sft_loss").item<double>()).epsilon(1e-5));
    (sum / weight).backward();
    check_gradients(model, expected, "sft_grad");
  }
}

TEST_CASE("parity: DPO losses of every kind, and gradients, equal TRL's") {
  for (const auto* name : {"llama3.1", "smollm2", "qwen2.5"}) {
    CAPTURE(name);
    const auto expected = map_safetensors(folder_of(name) / "expected.safetensors");
    auto model = load_pretrained(folder_of(name)), reference = load_pretrained(folder_of(name));
    {
      const torch::NoGradGuard no_grad;
      for (auto& p : reference->parameters()) p.mul_(0.9);
    }
    const auto chosen = examples_of(expected, "chosen_"), rejected = examples_of(expected, "rejected_");
    std::vector<Example> pairs;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      pairs.push_back(chosen[i]);
      pairs.push_back(rejected[i]);
    }
    for (const auto* type : {"sigmoid", "ipo", "hinge", "robust"}) {
      CAPTURE(type);
      const DpoOptions options{type, 0.3, std::string(type) == "robust" ? 0.2 : 0.0};
      const DpoLoss loss(pairs, 0, reference_log_probs(reference, pairs, 0), options);
      const auto mean = loss.sum(model, first_rows(loss.rows())) / static_cast<double>(loss.rows());
      CHECK(mean.item<double>() ==
            doctest::Approx(expected.at("dpo_" + std::string(type)).item<double>()).epsilon(1e-4));
      if (std::string(type) != "sigmoid") continue;
      mean.backward();
      check_gradients(model, expected, "dpo_grad");
    }
  }
}
