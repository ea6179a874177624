#include <doctest/doctest.h>

#include <cmath>

#include "study/encode.hpp"
#include "tests/support.hpp"
#include "train/dpo.hpp"

using namespace align;
using namespace align::study;
using namespace align::test;

namespace {

/// -log p of every answer token of one example, from a pass of its own, in double.
std::vector<double> token_losses(CausalLm& model, const Example& example) {
  const torch::NoGradGuard no_grad;
  const auto logits = model->logits(model->hidden(torch::tensor(example.tokens, torch::kInt64).unsqueeze(0)))[0];
  std::vector<double> losses;
  for (std::size_t t = 1; t < example.tokens.size(); ++t) {
    if (!example.answer[t]) continue;
    const auto row = logits[static_cast<std::int64_t>(t) - 1].to(torch::kFloat64);
    double sum = 0;
    for (std::int64_t i = 0; i < row.size(0); ++i) sum += std::exp(row[i].item<double>());
    losses.push_back(std::log(sum) - row[example.tokens[t]].item<double>());
  }
  return losses;
}

}  // namespace

TEST_CASE("labels are masked by position: the end of turn counts although padding is the same token") {
  const WordTokenizer tokenizer({"a", "b", "c"});
  REQUIRE(tokenizer.end() == tokenizer.padding());
  const auto example = encode(tokenizer, "a b", "c");
  CHECK(tokenizer.decode(example.tokens) == "<user> a b <assistant> c <end>");
  const auto longer = encode(tokenizer, "a", "b c a");
  const Example* examples[] = {&example, &longer};
  const auto batch = collate(examples, tokenizer.padding(), torch::kCPU);
  CHECK(batch.ids.sizes() == torch::IntArrayRef({2, 7}));
  REQUIRE(batch.targets.size(0) == 2 + 4);
  const auto flat = batch.ids.flatten();
  for (std::int64_t i = 0; i < 6; ++i) {
    CHECK(flat[batch.predictors[i].item<std::int64_t>() + 1].item<std::int64_t>() ==
          batch.targets[i].item<std::int64_t>());
  }
  CHECK(batch.targets[1].item<std::int64_t>() == tokenizer.end());
  CHECK(batch.targets[5].item<std::int64_t>() == tokenizer.end());
}

TEST_CASE("the SFT loss is the mean over answer tokens, whatever stands beside a row in its batch") {
  auto model = tiny_model();
  const auto examples = random_examples(9, 11);
  double sum = 0, tokens = 0;
  for (const auto& example : examples) {
    for (const double loss : token_losses(model, example)) sum += loss, ++tokens;
  }
  const SftLoss loss(examples, 0);
  for (const std::int64_t batch : {1, 4, 100})
    CHECK(mean(loss, model, batch) == doctest::Approx(sum / tokens).epsilon(1e-5));
}

TEST_CASE("gradients of the SFT loss agree with finite differences") {
  auto model = tiny_model();
  const SftLoss loss(random_examples(4, 12), 0);
  const auto rows = first_rows(4);
  const auto analytic = gradient(model, loss.sum(model, rows));
  torch::Tensor direction;
  const auto shifted = [&](double scale) {
    auto copy = clone(model);
    const torch::NoGradGuard no_grad;
    std::int64_t at = 0;
    for (auto& p : copy->parameters()) {
      p += scale * direction.slice(0, at, at + p.numel()).view_as(p);
      at += p.numel();
    }
    return loss.sum(copy, rows).item<double>();
  };
  // Along the gradient, and along another direction that is not nearly at right angles to it. Differences over two
  // steps, extrapolated.
  torch::manual_seed(4);
  const auto along = analytic / analytic.norm() * 0.05;
  for (const double mixture : {0.0, 0.002}) {
    direction = along + mixture * torch::randn(analytic.sizes());
    const double whole = shifted(0.5) - shifted(-0.5), half = 2 * (shifted(0.25) - shifted(-0.25));
    CHECK((4 * half - whole) / 3 == doctest::Approx((analytic * direction).sum().item<double>()).epsilon(0.01));
  }
}

TEST_CASE("the DPO loss has its closed form, and stays finite where a sigmoid underflows") {
  const auto loss = [](double difference, double beta) {
    return dpo_losses(torch::tensor({difference}, torch::kFloat32), {.beta = beta}).item<double>();
  };
  for (const double difference : {-5.0, 0.0, 3.0}) {
    CHECK(loss(difference, 0.2) == doctest::Approx(std::log1p(std::exp(-0.2 * difference))).epsilon(1e-6));
  }
  CHECK(loss(-1e4, 1.0) == doctest::Approx(1e4).epsilon(1e-6));
  auto x = torch::tensor({-1e4}, torch::requires_grad());
  dpo_losses(x, {.beta = 0.5}).sum().backward();
  CHECK(x.grad().item<double>() == doctest::Approx(-0.5));
}

TEST_CASE("the DPO loss of the reference policy itself is log 2, and falls along its own gradient") {
  auto model = tiny_model();
  const auto examples = random_examples(10, 13);
  const DpoLoss loss(examples, 0, reference_log_probs(model, examples, 0), {.beta = 0.1});
  REQUIRE(loss.rows() == 5);
  CHECK(mean(loss, model) == doctest::Approx(std::log(2.0)).epsilon(1e-5));
  loss.sum(model, first_rows(5)).backward();
  {
    const torch::NoGradGuard no_grad;
    for (auto& p : model->parameters()) p -= 0.05 * p.grad();
  }
  CHECK(mean(loss, model) < std::log(2.0) - 1e-3);
  // The reference is frozen: it does not follow the model.
  const auto now = log_probs_of(model, examples, 0).view({5, 2});
  CHECK(largest_difference(now, reference_log_probs(model, examples, 0)) == 0);
}

TEST_CASE("log-probabilities of answers are sums over their tokens") {
  auto model = tiny_model();
  const auto examples = random_examples(7, 14);
  const auto log_probs = log_probs_of(model, examples, 0, /*batch_size=*/3);
  for (std::size_t i = 0; i < examples.size(); ++i) {
    double sum = 0;
    for (const double loss : token_losses(model, examples[i])) sum += loss;
    CHECK(log_probs[static_cast<std::int64_t>(i)].item<double>() == doctest::Approx(-sum).epsilon(1e-5));
  }
}

TEST_CASE("rows whose answer is cut away are dropped and counted; none left is an error that names the limit") {
  const WordTokenizer tokenizer({"a", "b"});
  const std::vector<Row> rows = {{"a", "b b b"}, {"a a a a", "b"}, {"a a", "b"}};
  CHECK(encode(tokenizer, rows, 20).examples.size() == 3);
  const auto some = encode(tokenizer, rows, 5);  // <user> a a a a <assistant> has 6
  CHECK(some.dropped == 1);
  CHECK(some.rows == 2);
  CHECK(some.cut == 2);  // 7 and 6 tokens
  REQUIRE(some.examples.size() == 2);
  CHECK(some.examples[0].answer_tokens() == 2);
  CHECK_THROWS_WITH_AS(encode(tokenizer, rows, 3), doctest::Contains("max_length = 3"), ogpsa::InvalidArgument);
  const std::vector<PreferenceRow> pairs = {{"a a a", "b", "b b"}, {"a", "b", "b"}};
  CHECK(encode(tokenizer, pairs, 5).dropped == 1);
  CHECK_THROWS_WITH_AS(tokenizer.encode("a zebra"), doctest::Contains("zebra"), ogpsa::InvalidArgument);
}
