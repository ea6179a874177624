#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "study/table.hpp"
#include "study/workers.hpp"
#include "tests/support.hpp"

using namespace align;
using namespace align::study;
using namespace align::test;

namespace {

nlohmann::json world() { return read_json(std::filesystem::path(OGPSA_ALIGN_DATA_DIR) / "world.json"); }

TaskSizes small_sizes() { return {.pretraining = 2000, .safety = 100, .reference = 8, .heldout = 20}; }

/// A study of seconds: it learns nothing, but goes through every stage.
StudyOptions small_study() {
  StudyOptions options;
  options.rows = {.pretraining = 100, .safety = 20, .reference = 4, .heldout = 6};
  options.model.hidden_size = 16;
  options.model.intermediate_size = 16;
  options.model.num_hidden_layers = 1;
  options.base.num_train_epochs = 1;
  options.checkpoint_every = 2;
  options.seeds = {1, 2};
  for (auto* stage : {&options.sft, &options.dpo, &options.sft_dpo}) {
    stage->train.num_train_epochs = 2;
    stage->train.per_device_train_batch_size = 4;
    stage->plain_learning_rates = {1e-3, 1e-2};
  }
  return options;
}

}  // namespace

TEST_CASE("no held-out row is trained on, nor its deed in other words") {
  const auto tasks = TaskGenerator(world(), 1).generate(small_sizes());
  std::set<std::string> trained;
  for (const auto& row : tasks.pretraining) trained.insert(row.prompt);
  for (const auto& row : tasks.safety) trained.insert(row.prompt);
  for (const auto& [name, rows] : tasks.heldout) {
    REQUIRE(rows.size() == 20);
    for (const auto& row : rows) CHECK(trained.count(row.prompt) == 0);
    for (const auto& reference : tasks.reference.at(name)) {
      CHECK(trained.count(reference.prompt) == 0);
      for (const auto& row : rows) CHECK(row.prompt != reference.prompt);
    }
  }
  const auto contains_deed = [&](const std::string& text) {
    return std::any_of(trained.begin(), trained.end(),
                       [&](const std::string& prompt) { return prompt.find(text) != std::string::npos; });
  };
  int found = 0;
  for (const auto& row : tasks.heldout_safety) {
    CHECK(trained.count(row.prompt) == 0);
    for (const char* kind : {"people", "property"}) {
      const auto acts = world().at(std::string("harm_to_") + kind).get<std::vector<std::string>>();
      for (const auto& act : acts) {
        for (const auto& object : world().at(kind).get<std::vector<std::string>>()) {
          const auto deed = " " + act + " " + object + " ";
          if (row.prompt.find(deed) == std::string::npos) continue;
          ++found;
          CHECK(!contains_deed(deed));
        }
      }
    }
  }
  CHECK(found == 20);
}

TEST_CASE("every fact that is asked for was taught in other words") {
  const auto tasks = TaskGenerator(world(), 1).generate({.pretraining = 12000, .reference = 8, .heldout = 40});
  const auto key = [](const std::string& prompt, const char* list) {
    for (const auto& word : world().at(list).get<std::vector<std::string>>()) {
      if ((" " + prompt + " ").find(" " + word + " ") != std::string::npos) return word;
    }
    return std::string();
  };
  std::map<std::string, std::string> taught;
  for (const auto& row : tasks.pretraining) {
    taught[key(row.prompt, "countries") + "/" + key(row.prompt, "relations")] = row.answer;
  }
  for (const auto& row : tasks.heldout.at("facts")) {
    CHECK(taught[key(row.prompt, "countries") + "/" + key(row.prompt, "relations")] == row.answer);
  }
}

TEST_CASE("answers are right") {
  const auto tasks = TaskGenerator(world(), 2).generate(small_sizes());
  for (const auto& row : tasks.heldout.at("arithmetic")) {
    int a = 0, b = 0, answer = 0;
    int* number = &a;
    for (const char c : row.prompt) {
      if (c == 'p') number = &b;
      if (c >= '0' && c <= '9') *number = 10 * *number + (c - '0');
    }
    for (const char c : row.answer) answer = c == ' ' ? answer : 10 * answer + (c - '0');
    CHECK(answer == a + b);
  }
  const auto words_of = [](const std::string& text) {
    std::istringstream in(text.substr(text.find(':') == std::string::npos ? 0 : text.find(':') + 1));
    return std::vector<std::string>{std::istream_iterator<std::string>(in), {}};
  };
  for (const auto& row : tasks.heldout.at("sort")) {
    auto words = words_of(row.prompt);
    std::sort(words.begin(), words.end());
    CHECK(words == words_of(row.answer));
  }
  for (const auto& row : tasks.heldout.at("reverse")) {
    auto words = words_of(row.prompt);
    std::reverse(words.begin(), words.end());
    CHECK(words == words_of(row.answer));
  }
}

TEST_CASE("every row can be written in the vocabulary, and a seed gives the same rows again") {
  const auto a = TaskGenerator(world(), 3).generate(small_sizes()),
             b = TaskGenerator(world(), 3).generate(small_sizes());
  const WordTokenizer tokenizer(a.vocabulary);
  REQUIRE(a.pretraining.size() == b.pretraining.size());
  for (std::size_t i = 0; i < a.pretraining.size(); ++i) {
    CHECK(a.pretraining[i].prompt == b.pretraining[i].prompt);
    CHECK(tokenizer.decode(tokenizer.encode(a.pretraining[i].answer)) == a.pretraining[i].answer);
    tokenizer.chat(a.pretraining[i].prompt);
  }
  for (const auto& row : a.safety) {
    CHECK(refuses(row.chosen));
    CHECK(!refuses(row.rejected));
  }
  for (const auto& row : a.heldout_lookalikes) CHECK(!refuses(row.answer));
  CHECK_THROWS_AS(TaskGenerator(world(), 3).generate({.pretraining = 10, .heldout = 100000}), ogpsa::InvalidArgument);
}

TEST_CASE("spread and trade-off curve") {
  const auto s = spread({1, 2, 6});
  CHECK(s.mean == doctest::Approx(3));
  CHECK(s.deviation == doctest::Approx(std::sqrt(7.0)));
  CHECK(spread({4}).deviation == 0);
  TradeOffCurve curve;
  curve.add(0.01, {.loss = 0.3, .exact_match = 0.6});
  curve.add(1.0, {.loss = 0.1, .exact_match = 0.9});
  const auto middle = curve.at(0.1);
  REQUIRE(middle);
  CHECK(middle->loss == doctest::Approx(0.2));
  CHECK(middle->exact_match == doctest::Approx(0.75));
  CHECK(curve.at(1.0)->loss == doctest::Approx(0.1));
  CHECK(!curve.at(2.0));
  CHECK(!curve.at(0.001));
}

TEST_CASE("the plan: each run after the one it starts from, SFT -> DPO from the SFT run of its arm") {
  const auto plan = make_plan({});
  std::set<std::string> seen;
  for (const auto& run : plan) {
    if (run.stage != "base") CHECK(seen.count(run.start.string()) == 1);
    if (run.stage == "sft-dpo") CHECK(run.start.filename() == run.arm);
    CHECK(seen.insert(run.folder().string()).second);
  }
  CHECK(plan.size() == 3 * (1 + 3 * (4 + 4)));
  StudyOptions wrong;
  wrong.arms = {"plain", "ogspa"};
  CHECK_THROWS_WITH_AS(make_plan(wrong), doctest::Contains("'ogspa'"), ogpsa::InvalidArgument);
  wrong = {};
  wrong.sft.plain_learning_rates = {1e-4};
  CHECK_THROWS_AS(make_plan(wrong), ogpsa::InvalidArgument);
}

TEST_CASE("a study that is stopped anywhere ends with the numbers of one that was not") {
  const auto options = small_study();
  const auto tasks = TaskGenerator(world(), options.data_seed).generate(options.rows);
  const auto numbers = [&](const std::filesystem::path& folder) {
    const Workbench bench(options, tasks, folder);
    auto arms = summary(options, collect_reports(options, bench)).at("arms");
    for (auto& arm : arms) {
      for (auto& seed : arm.at("seeds")) seed.erase("seconds_per_step");
    }
    return arms;
  };
  const TemporaryFolder whole, broken;
  const Workbench bench(options, tasks, whole.path());
  stop_requested = false;
  REQUIRE(Workers(bench, make_plan(options)).run(2));

  // Every run: stopped after its first step, then killed without a word (its last checkpoint is older than its
  // metrics), then finished.
  torch::set_num_threads(1);  // as Workers do: a product of matrices depends on the number of threads
  const Workbench again(options, tasks, broken.path());
  Progress progress(1, 1);
  for (const auto& run : make_plan(options)) {
    const std::atomic<bool> stop = true, go = false;
    CHECK_THROWS_AS(again.execute(run, progress, stop), Interrupted);
    CHECK(!again.finished(run));
    std::ofstream(broken.path() / run.folder() / "metrics.jsonl", std::ios::app) << "{\"step\": 1, \"fraction_rem";
    again.execute(run, progress, go);
    CHECK(again.finished(run));
  }
  const bool same = numbers(broken.path()) == numbers(whole.path());  // 100 kB, not to be printed
  CHECK(same);
  const auto text = table(collect_reports(options, bench));
  CHECK(text.find("ogpsa-step") != std::string::npos);
}
