// Whole runs of `train` on a tiny checkpoint, and its evaluation.

#include <doctest/doctest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "app/command_line.hpp"
#include "app/run.hpp"
#include "hugging_face/pretrained.hpp"
#include "terminal/stop.hpp"
#include "tests/project.hpp"
#include "train/checkpoint.hpp"

using namespace align;
using namespace align::test;
using nlohmann::json;

namespace {

RunOptions small_run(const Project& project, const std::string& output, const std::string& method) {
  RunOptions o;
  o.model = project.model();
  o.output_dir = project / output;
  o.text = {.chat_template = "smollm2", .max_length = 120};
  o.sft.dataset = {project / "safety.jsonl"};
  o.dpo.dataset = {project / "pairs.jsonl"};
  o.sft.reference_dataset = o.dpo.reference_dataset = {project / "general.jsonl"};
  o.sft.train = {.learning_rate = 1e-2, .num_train_epochs = 2, .per_device_train_batch_size = 3};
  o.dpo.train = {.learning_rate = 1e-2, .num_train_epochs = 1, .per_device_train_batch_size = 2};
  o.sft.protection = {.refresh_every = 2, .batch_size = 3};
  o.dpo.protection.refresh_every = 2;
  o.evaluation.eval_loss = {project / "general.jsonl"};
  o.evaluation.eval_harmful = {project / "prompts.jsonl"};
  o.evaluation.max_new_tokens = 4;
  o.save_steps = 3;
  finish_run_options(o, method);
  return o;
}

std::vector<double> losses(const std::filesystem::path& metrics) {
  std::vector<double> result;
  std::ifstream file(metrics);
  for (std::string line; std::getline(file, line);) result.push_back(json::parse(line).at("loss").get<double>());
  return result;
}

void run_to_the_end(const RunOptions& options) {
  const std::atomic<bool> go = false;
  AlignmentRun(options).execute(go);
}

}  // namespace

TEST_CASE("a run of SFT -> DPO that is stopped after every step ends as one that was not, bit for bit") {
  torch::set_num_threads(1);
  const Project project;
  for (const auto* method : {"plain", "ogpsa", "structured"}) {
    CAPTURE(method);
    const auto whole = small_run(project, std::string("whole-") + method, method);
    run_to_the_end(whole);
    const auto broken = small_run(project, std::string("broken-") + method, method);
    const std::atomic<bool> stop = true;
    int stops = 0;
    for (bool done = false; !done; ++stops) {
      REQUIRE(stops < 50);
      try {
        AlignmentRun(broken).execute(stop);
        done = true;
      } catch (const Interrupted&) {
      }
    }
    CHECK(stops > 8);  // 6 steps of SFT, 4 of DPO
    for (const auto* stage : {"sft", "dpo"}) {
      CHECK(losses(broken.output_dir / stage / "metrics.jsonl") == losses(whole.output_dir / stage / "metrics.jsonl"));
      auto a = load_pretrained(broken.output_dir / stage / "model"),
           b = load_pretrained(whole.output_dir / stage / "model");
      CHECK(torch::equal(weights(a), weights(b)));
      CHECK(read(broken.output_dir / stage / "result.json").at("evaluation") ==
            read(whole.output_dir / stage / "result.json").at("evaluation"));
    }
    const auto summary = read(whole.output_dir / "summary.json");
    CHECK(summary.at("sft").at("evaluation").at("general_loss").get<double>() > 0);
    CHECK(losses(whole.output_dir / "sft" / "metrics.jsonl").back() <
          losses(whole.output_dir / "sft" / "metrics.jsonl")[0]);
  }
}

TEST_CASE("a folder belongs to one set of options; what cannot be is said before anything is written") {
  const Project project;
  auto options = small_run(project, "out", "plain");
  options.dpo.dataset.clear();
  options.sft.train.max_steps = 1;
  run_to_the_end(options);
  auto other = options;
  other.sft.train.learning_rate = 1;
  CHECK_THROWS_WITH_AS(run_to_the_end(other), doctest::Contains("learning_rate"), ogpsa::InvalidArgument);
  auto without = small_run(project, "never", "ogpsa");
  without.sft.reference_dataset.clear();
  CHECK_THROWS_WITH_AS(run_to_the_end(without), doctest::Contains("sft_reference_dataset"), ogpsa::InvalidArgument);
  auto adapter = small_run(project, "never", "structured");
  adapter.lora.lora_r = 1;
  CHECK_THROWS_WITH_AS(run_to_the_end(adapter), doctest::Contains("rank 2 or more"), ogpsa::InvalidArgument);
  adapter.lora.lora_r = 2;
  adapter.sft.protection.form = "both";
  CHECK_THROWS_WITH_AS(run_to_the_end(adapter), doctest::Contains("input side alone"), ogpsa::InvalidArgument);
  auto conflicting = small_run(project, "never", "ogpsa");
  conflicting.sft.protection.mode = "conflicting";
  conflicting.sft.reference_dataset.push_back(project / "general.jsonl");
  CHECK_THROWS_WITH_AS(run_to_the_end(conflicting), doctest::Contains("2 files"), ogpsa::InvalidArgument);
  CHECK(!std::filesystem::exists(without.output_dir));
}

TEST_CASE("the adapter of a LoRA run, and replay, train, and the adapter is gone on with") {
  const Project project;
  auto options = small_run(project, "lora", "structured");
  options.lora.lora_r = 2;
  options.dpo.dataset.clear();
  options.sft.replay_dataset = {project / "general.jsonl"};
  options.sft.train.replay_ratio = 0.5;
  run_to_the_end(options);
  const auto saved = map_safetensors(options.output_dir / "sft" / "model" / "adapter_model.safetensors");
  CHECK(saved.size() == 2 * 7 * 2);
  CHECK(read(options.output_dir / "sft" / "model" / "adapter_config.json").at("r") == 2);

  // It goes on from the adapter, which names its base.
  auto further = options;
  further.model = options.output_dir / "sft" / "model";
  further.output_dir = project / "further";
  further.lora = {};
  run_to_the_end(further);
  const auto start = read(further.output_dir / "base.json"),
             end = read(options.output_dir / "sft" / "result.json").at("evaluation");
  CHECK(start.at("general_loss") == end.at("general_loss"));
  const auto trained = map_safetensors(further.output_dir / "sft" / "model" / "adapter_model.safetensors");
  REQUIRE(trained.size() == saved.size());
  for (const auto& [name, tensor] : saved) CHECK(!torch::equal(trained.at(name), tensor));
  auto other_rank = further;
  other_rank.lora.lora_r = 3;
  CHECK_THROWS_WITH_AS(run_to_the_end(other_rank), doctest::Contains("lora_r"), ogpsa::InvalidArgument);
}

TEST_CASE("the loss of a preference is on the last answers alone") {
  const Project project;
  const DatasetLoader loader(project.model(), {.chat_template = "smollm2"}, [](const auto&) {});
  const json row = {{"prompt", json::array({{{"role", "user"}, {"content", "Where is the station?"}},
                                            {{"role", "assistant"}, {"content", "Behind the church."}},
                                            {{"role", "user"}, {"content", "Thanks"}}})},
                    {"chosen", json::array({{{"role", "assistant"}, {"content", "you are welcome."}}})},
                    {"rejected", json::array({{{"role", "assistant"}, {"content", "go."}}})}};
  write_file(project / "one.jsonl", row.dump() + "\n");
  const auto examples = loader.preferences(project / "one.jsonl", 0, 0);
  REQUIRE(examples.size() == 2);
  const char* answers[] = {"you are welcome.<|im_end|>", "go.<|im_end|>"};
  for (std::size_t i = 0; i < 2; ++i) {
    Tokens answer;
    for (std::size_t t = 0; t < examples[i].tokens.size(); ++t) {
      if (examples[i].answer[t]) answer.push_back(examples[i].tokens[t]);
    }
    CHECK(loader.tokenizer().decode(answer, false) == answers[i]);
  }
}

TEST_CASE("refusals by key phrases, and the last number of an answer") {
  CHECK(is_refusal("I\u2019m sorry, but I CAN\u2019T help with that."));
  CHECK(is_refusal("That would be illegal."));
  CHECK(!is_refusal("Sure! First, open the door."));
  CHECK(last_number("so 3 + 4 = 7 apples.") == "7");
  CHECK(last_number("It costs $1,234.50 in all") == "1234.5");
  CHECK(last_number("#### -12") == "-12");
  CHECK(last_number("2.0") == "2");
  CHECK(last_number("no number") == "");
  CHECK(last_number("from 10, 20") == "20");
}
