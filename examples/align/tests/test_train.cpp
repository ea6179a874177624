#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "model/lora.hpp"
#include "tests/support.hpp"
#include "train/checkpoint.hpp"
#include "train/dpo.hpp"
#include "train/metrics.hpp"
#include "train/trainer.hpp"

using namespace align;
using namespace align::test;

namespace {

std::vector<Reference> references() {
  return {{"first", std::make_shared<SftLoss>(random_examples(7, 21), 0)},
          {"second", std::make_shared<SftLoss>(random_examples(5, 22), 0)}};
}

Protection protection(const CausalLm& model, Method method) {
  return Protection(model, references(), {.method = method, .refresh_every = 3, .max_share = 0.4, .batch_size = 3});
}

/// Takes note of the rows that it is asked for.
class Witness : public Loss {
 public:
  explicit Witness(std::int64_t rows) : rows_(rows) {}
  std::int64_t rows() const override { return rows_; }
  double weight(std::int64_t) const override { return 1; }
  std::int64_t length(std::int64_t) const override { return 1; }
  torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const override {
    seen.insert(seen.end(), rows.begin(), rows.end());
    return model->parameters()[0].sum() * static_cast<double>(rows.size());
  }
  mutable std::vector<std::int64_t> seen;

 private:
  std::int64_t rows_;
};

constexpr Method kMethods[] = {Method::plain, Method::ogpsa, Method::ogpsa_step, Method::structured};

}  // namespace

TEST_CASE("a step does not depend on how its rows are cut into micro-batches") {
  const SftLoss loss(random_examples(11, 31), 0);
  const auto after = [&](std::int64_t batch, std::int64_t accumulation) {
    auto model = tiny_model();
    Trainer trainer(model, loss,
                    {.learning_rate = 1e-2,
                     .per_device_train_batch_size = batch,
                     .gradient_accumulation_steps = accumulation,
                     .seed = 5},
                    protection(model, Method::plain));
    const auto record = trainer.advance();
    return std::tuple{record.loss, record.gradient_norm, weights(model)};
  };
  const auto [loss_1, norm_1, weights_1] = after(12, 1);
  for (const auto& [batch, accumulation] : {std::pair{6, 2}, {4, 3}, {1, 12}}) {
    const auto [loss_n, norm_n, weights_n] = after(batch, accumulation);
    CHECK(loss_n == doctest::Approx(loss_1).epsilon(1e-5));
    CHECK(norm_n == doctest::Approx(norm_1).epsilon(1e-4));
  }
  auto model = tiny_model();
  CHECK(loss_1 == doctest::Approx(mean(loss, model)).epsilon(1e-5));  // 11 rows are one step
  CHECK(norm_1 == doctest::Approx(gradient(
                                      model, loss.sum(model, first_rows(11)) /
                                                 [&] {
                                                   double tokens = 0;
                                                   for (int i = 0; i < 11; ++i) tokens += loss.weight(i);
                                                   return tokens;
                                                 }())
                                      .norm()
                                      .item<double>())
                      .epsilon(1e-4));
}

TEST_CASE("every epoch visits every row once, the last partial step included, in an order of its own") {
  auto model = tiny_model();
  const Witness loss(11);
  Trainer trainer(
      model, loss,
      {.num_train_epochs = 3, .per_device_train_batch_size = 2, .gradient_accumulation_steps = 2, .seed = 9},
      protection(model, Method::plain));
  CHECK(trainer.total_steps() == 9);
  while (!trainer.done()) trainer.advance();
  REQUIRE(loss.seen.size() == 33);
  std::set<std::vector<std::int64_t>> orders;
  for (std::size_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<std::int64_t> rows(loss.seen.begin() + static_cast<std::ptrdiff_t>(11 * epoch),
                                   loss.seen.begin() + static_cast<std::ptrdiff_t>(11 * epoch + 11));
    CHECK(rows == epoch_order(9, static_cast<std::int64_t>(epoch), 11));
    orders.insert(rows);
    std::sort(rows.begin(), rows.end());
    CHECK(rows == first_rows(11));
  }
  CHECK(orders.size() == 3);
  CHECK(epoch_order(9, 0, 11) != epoch_order(10, 0, 11));
}

TEST_CASE("structured with LoRA: what an adapter adds answers nothing to the protected inputs of its layer") {
  const SftLoss loss(random_examples(11, 31), 0);
  auto base = tiny_model();
  // The queries of the first layer see the normalised embeddings; of the references' there are these.
  std::vector<torch::Tensor> inputs;
  for (const auto& some : {random_examples(7, 21), random_examples(5, 22)}) {
    for (const auto& example : some) {
      const auto x =
          base->named_parameters()["model.embed_tokens.weight"].index_select(0, torch::tensor(example.tokens));
      inputs.push_back(x * torch::rsqrt(x.square().mean(1, true) + base->config().rms_norm_eps));
    }
  }
  const auto x = torch::cat(inputs).to(torch::kDouble).detach();
  const auto leading = std::get<1>(torch::linalg_eigh(torch::matmul(x.t(), x))).slice(1, 16 - 6);
  const auto leak_and_loss = [&](Method method) {
    auto model = tiny_model();
    add_adapters(model, {.lora_r = 3, .lora_target_modules = {"q_proj", "down_proj"}}, 1);
    Trainer trainer(model, loss, {.learning_rate = 1e-2, .max_steps = 7, .seed = 5}, protection(model, method));
    const auto before = trainer.advance().loss;
    while (!trainer.done()) trainer.advance();
    const auto parameters = model->named_parameters();
    const std::string layer = "model.layers.0.self_attn.q_proj.";
    const auto change =
        torch::matmul(parameters[layer + "lora_B.weight"], parameters[layer + "lora_A.weight"]).detach();
    const auto answered = torch::matmul(change.to(torch::kDouble), leading).norm() / change.norm();
    return std::pair{answered.item<double>(), before};
  };
  const auto [plain, first_loss] = leak_and_loss(Method::plain);
  CHECK(plain > 0.1);
  const auto [leak, first] = leak_and_loss(Method::structured);
  CHECK(leak < 1e-5);
  CHECK(first == first_loss);  // to take out what an adapter was drawn with changes no answer
  CHECK(leak_and_loss(Method::structured_gradient).first < plain);  // AdamW's step is not the gradient
}

TEST_CASE("the schedule rises in a line and falls in half a cosine") {
  CHECK(schedule({.warmup_ratio = 0.2}, 0, 10) == 0);
  CHECK(schedule({.warmup_ratio = 0.2}, 1, 10) == doctest::Approx(0.5));
  CHECK(schedule({.warmup_ratio = 0.2}, 2, 10) == doctest::Approx(1));
  CHECK(schedule({.warmup_ratio = 0.2}, 4, 10) == doctest::Approx(0.5 + std::sqrt(2.0) / 4));
  CHECK(schedule({.warmup_ratio = 0.2}, 6, 10) == doctest::Approx(0.5));
  CHECK(schedule({.warmup_ratio = 0.2}, 8, 10) == doctest::Approx(0.5 - std::sqrt(2.0) / 4));
  CHECK(schedule({.warmup_ratio = 0}, 0, 10) == 1);
  CHECK(schedule({.warmup_ratio = 0}, 10, 10) == doctest::Approx(0));
  const TrainOptions linear{.lr_scheduler_type = "linear", .warmup_ratio = 0.2};
  CHECK(schedule(linear, 1, 10) == doctest::Approx(0.5));
  CHECK(schedule(linear, 4, 10) == doctest::Approx(0.75));
  CHECK(schedule({.lr_scheduler_type = "constant"}, 9, 10) == 1);
  CHECK_THROWS_WITH_AS(check({.lr_scheduler_type = "cosin"}), doctest::Contains("cosine"), ogpsa::InvalidArgument);
}

TEST_CASE("the first step is AdamW's: the sign of the gradient times the learning rate, after weight decay") {
  auto model = tiny_model();
  const SftLoss loss(random_examples(6, 32), 0);
  const auto before = weights(model);
  double tokens = 0;
  for (int i = 0; i < 6; ++i) tokens += loss.weight(i);
  const auto g = gradient(model, loss.sum(model, first_rows(6)) / tokens);
  Trainer trainer(model, loss, {.learning_rate = 1e-3, .weight_decay = 0.1, .max_grad_norm = 0},
                  protection(model, Method::plain));
  CHECK(trainer.advance().learning_rate == doctest::Approx(1e-3));
  const auto expected = before * (1 - 1e-3 * 0.1) - 1e-3 * g.sign();
  const auto clear = g.abs() > 1e-4;  // where eps does not matter
  CHECK(largest_difference(weights(model).masked_select(clear), expected.masked_select(clear)) < 2e-6);
}

TEST_CASE("clipping bounds the gradient, and 0 turns it off") {
  for (const double limit : {0.01, 0.0}) {
    auto model = tiny_model();
    const SftLoss loss(random_examples(6, 33), 0);
    Trainer trainer(model, loss, {.max_grad_norm = limit}, protection(model, Method::plain));
    const double norm = trainer.advance().gradient_norm;
    double squares = 0;
    for (const auto& p : model->parameters()) squares += p.grad().pow(2).sum().item<double>();
    REQUIRE(norm > 0.01);
    CHECK(std::sqrt(squares) == doctest::Approx(limit > 0 ? limit : norm).epsilon(1e-3));
  }
}

TEST_CASE("protection: reference losses do not move to first order") {
  const SftLoss loss(random_examples(8, 34), 0);
  const auto along_reference = [&](Method method) {
    auto model = tiny_model();
    std::vector<torch::Tensor> h;
    for (const auto& r : references()) h.push_back(gradient(model, r.loss->sum(model, first_rows(r.loss->rows()))));
    const auto before = weights(model);
    Trainer trainer(model, loss, {.learning_rate = 1e-3, .weight_decay = 0.1}, protection(model, method));
    trainer.advance();
    torch::Tensor moved = weights(model) - before;
    if (method == Method::ogpsa) {  // holds for the gradient, not for AdamW's step
      std::vector<torch::Tensor> parts;
      for (const auto& p : model->parameters()) parts.push_back(p.grad().flatten());
      moved = torch::cat(parts);
    }
    double largest = 0;
    for (const auto& r : h) {
      largest =
          std::max(largest, std::abs((r * moved).sum().item<double>() / (r.norm() * moved.norm()).item<double>()));
    }
    return largest;
  };
  CHECK(along_reference(Method::plain) > 1e-3);
  CHECK(along_reference(Method::ogpsa) < 1e-5);
  CHECK(along_reference(Method::ogpsa_step) < 1e-4);
  CHECK(along_reference(Method::structured) < 0.8 * along_reference(Method::plain));
}

TEST_CASE("a resumed run equals one that was never stopped, bit for bit") {
  const auto examples = random_examples(22, 35);
  for (const auto method : kMethods) {
    for (const bool preferences : {false, true}) {
      CAPTURE(name(method));
      CAPTURE(preferences);
      const auto run = [&](std::int64_t stop_at, const std::filesystem::path& folder) {
        auto model = tiny_model();
        std::shared_ptr<const Loss> loss = std::make_shared<SftLoss>(examples, 0);
        if (preferences) {
          loss =
              std::make_shared<DpoLoss>(examples, 0, reference_log_probs(model, examples, 0), DpoOptions{.beta = 0.1});
        }
        const TrainOptions options{.learning_rate = 1e-2,
                                   .weight_decay = 0.01,
                                   .num_train_epochs = 3,
                                   .per_device_train_batch_size = 2,
                                   .gradient_accumulation_steps = 2,
                                   .seed = 3};
        std::vector<double> losses;
        {
          Trainer trainer(model, *loss, options, protection(model, method));
          while (!trainer.done() && trainer.step() != stop_at) losses.push_back(trainer.advance().loss);
          if (trainer.done()) return std::pair{losses, weights(model)};
          trainer.save(folder);
        }
        CausalLm resumed = tiny_model(99);
        Trainer trainer(resumed, *loss, options, protection(resumed, method));
        trainer.load(folder);
        while (!trainer.done()) losses.push_back(trainer.advance().loss);
        return std::pair{losses, weights(resumed)};
      };
      const TemporaryFolder folder;
      const auto [losses, end] = run(-1, folder.path());
      for (const std::int64_t stop : {2, 4, 7}) {
        const auto [resumed_losses, resumed_end] = run(stop, folder.path());
        CHECK(resumed_losses == losses);
        CHECK(torch::equal(resumed_end, end));
      }
    }
  }
}

TEST_CASE(
    "two checkpoints are kept; one that was not finished is not taken for one, one that is damaged is passed over") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints(folder.path());
  CHECK(!checkpoints.latest());
  const auto write = [](const std::filesystem::path& path) { write_file(path / "x", "x"); };
  for (const std::int64_t step : {9, 10, 100}) checkpoints.save(step, write);
  CHECK(checkpoints.latest() == folder.path() / "checkpoint-100");
  CHECK(std::filesystem::exists(folder.path() / "checkpoint-10"));
  CHECK(!std::filesystem::exists(folder.path() / "checkpoint-9"));
  CHECK_THROWS(checkpoints.save(200, [](const auto&) { throw ogpsa::FileError("disk full"); }));
  CHECK(checkpoints.latest() == folder.path() / "checkpoint-100");
  CHECK(!std::filesystem::exists(folder.path() / "checkpoint.tmp"));
  std::filesystem::create_directory(folder.path() / "checkpoint-mine");
  std::vector<std::string> seen, said;
  const auto restore = [&](const std::string& damaged) {
    return checkpoints.restore(
        [&](const auto& path) {
          seen.push_back(path.filename());
          if (seen.back() >= damaged) throw ogpsa::FileError(seen.back() + " is cut short");
        },
        [&](const auto& line) { said.push_back(line); });
  };
  CHECK(restore("checkpoint-100"));
  CHECK(seen == std::vector<std::string>{"checkpoint-100", "checkpoint-10"});
  CHECK(said == std::vector<std::string>{"checkpoint-100 is cut short; the checkpoint before is used"});
  CHECK_THROWS_WITH_AS(restore("checkpoint-10"), doctest::Contains("remove"), ogpsa::FileError);
  checkpoints.remove();
  CHECK(!restore(""));
  std::filesystem::remove(folder.path() / "checkpoint-mine");
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("metrics go on after the step of the checkpoint, without lines twice or torn") {
  const TemporaryFolder folder;
  const auto path = folder.path() / "metrics.jsonl";
  {
    Metrics metrics(path, 0);
    for (int step = 0; step < 5; ++step) metrics.write({{"step", step}, {"loss", 1}});
  }
  std::ofstream(path, std::ios::app) << "{\"step\": 5, \"lo";
  Metrics(path, 3).write({{"step", 3}, {"loss", 2}});
  std::ifstream file(path);
  std::vector<int> steps;
  for (std::string line; std::getline(file, line);) steps.push_back(nlohmann::json::parse(line).at("step"));
  CHECK(steps == std::vector<int>{0, 1, 2, 3});
}
