// The real program, killed at any moment, and with no room on the disk.

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/process.hpp"
#include "tests/project.hpp"
#include "train/random.hpp"

using namespace align;
using namespace align::test;
using nlohmann::json;

namespace {

namespace fs = std::filesystem;

constexpr const char* kStages[] = {"sft", "dpo"};

/// A short run of SFT -> DPO that writes a checkpoint after each step.
std::vector<std::string> command(const Project& project, const fs::path& output, const std::string& method) {
  // More threads would wait for each other, busily, on cores that other programs use.
  std::vector<std::string> words = {"/usr/bin/env", "OMP_NUM_THREADS=1", OGPSA_ALIGN_PROGRAM, "train"};
  const auto add = [&](const std::string& name, const std::string& value) {
    words.insert(words.end(), {"--" + name, value});
  };
  add("model_name_or_path", project.model().string());
  add("output_dir", output.string());
  add("method", method);
  add("chat_template", "smollm2");
  add("save_steps", "1");
  for (const std::string stage : kStages) {
    add(stage + "_dataset", (project / (stage == "sft" ? "safety.jsonl" : "pairs.jsonl")).string());
    add(stage + "_reference_dataset", (project / "general.jsonl").string());
    add(stage + "_learning_rate", "1e-2");
    add(stage + "_num_train_epochs", "3");
    add(stage + "_per_device_train_batch_size", "3");
    add(stage + "_refresh_every", "2");
  }
  add("eval_loss", (project / "general.jsonl").string());
  return words;
}

std::string content_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The lines of metrics.jsonl without what is measured.
std::vector<json> untimed(const fs::path& metrics) {
  std::vector<json> lines;
  std::ifstream file(metrics);
  for (std::string text; std::getline(file, text);) {
    auto line = json::parse(text);
    for (const auto* key : {"seconds", "refresh_seconds", "update_seconds", "peak_memory"}) line.erase(key);
    lines.push_back(std::move(line));
  }
  return lines;
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    names.push_back(fs::relative(entry.path(), folder).string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void check_same(const fs::path& run, const fs::path& whole) {
  CHECK(files_in(run) == files_in(whole));
  CHECK(read(run / "base.json") == read(whole / "base.json"));
  for (const auto* stage : kStages) {
    CAPTURE(stage);
    CHECK(content_of(run / stage / "model/model.safetensors") == content_of(whole / stage / "model/model.safetensors"));
    CHECK(untimed(run / stage / "metrics.jsonl") == untimed(whole / stage / "metrics.jsonl"));
    CHECK(content_of(run / stage / "blocks.jsonl") == content_of(whole / stage / "blocks.jsonl"));
    CHECK(read(run / stage / "result.json").at("evaluation") == read(whole / stage / "result.json").at("evaluation"));
  }
}

struct Kills {
  int at_any_write = 0, in_a_checkpoint = 0;
  int status = 0;  ///< of the last one, which was left in peace or was faster
};

/// Runs a command, kills it, and again, until it comes to its end: sometimes after some number of things that it did to
/// its folders, sometimes just when it has begun to write a checkpoint.
Kills run_with_kills(const std::vector<std::string>& command, const fs::path& output, std::uint64_t seed) {
  Random random(seed);
  Kills kills;
  for (const auto* stage : kStages) fs::create_directories(output / stage);
  for (int launch = 0; launch < 100; ++launch) {
    FolderWatch watch({output, output / "sft", output / "dpo"});
    Process process(command);
    const bool in_checkpoint = launch % 2 == 1;
    std::size_t left = 1 + random.below(in_checkpoint ? 2 : 60);
    while (left > 0 && !process.ended()) {
      for (const auto& event : watch.wait(20)) {
        left -= left > 0 && (!in_checkpoint || (event.created && event.name == "checkpoint.tmp"));
      }
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random.below(2000)));
    process.kill();
    kills.status = process.wait();
    if (kills.status >= 0) break;
    ++(in_checkpoint ? kills.in_a_checkpoint : kills.at_any_write);
  }
  return kills;
}

std::string run(const std::vector<std::string>& command, int status) {
  Process process(command);
  CHECK(process.wait() == status);
  return process.output();
}

}  // namespace

TEST_SUITE_BEGIN("interrupted");

TEST_CASE("a run that is killed at any moment ends as one that was left in peace, bit for bit") {
  const Project project;
  const auto methods = {"plain", "structured"};
  std::vector<std::future<Kills>> broken;
  for (const std::string method : methods) {
    broken.push_back(std::async(std::launch::async, [&, method] {
      const auto output = project / ("broken-" + method);
      return run_with_kills(command(project, output, method), output, 7);
    }));
  }
  auto of_method = broken.begin();
  for (const std::string method : methods) {
    CAPTURE(method);
    const auto kills = (of_method++)->get();
    CHECK(kills.status == 0);
    CHECK(kills.at_any_write >= 4);
    CHECK(kills.in_a_checkpoint >= 4);
    run(command(project, project / ("whole-" + method), method), 0);
    check_same(project / ("broken-" + method), project / ("whole-" + method));
  }
}

TEST_CASE("without room on the disk a run says what it could not write, and goes on when there is some") {
  const Project project;
  const auto whole = command(project, project / "whole", "structured"),
             full = command(project, project / "full", "structured");
  run(whole, 0);
  fs::create_directories(project / "full" / "sft");
  {  // until there is a checkpoint
    FolderWatch watch({project / "full" / "sft"});
    Process process(full);
    for (bool seen = false; !seen && !process.ended();) {
      for (const auto& event : watch.wait(20)) seen |= event.moved_here && event.name == "checkpoint-2";
    }
  }
  const auto checkpoint = project / "full" / "sft" / "checkpoint-2";
  const auto model = fs::file_size(checkpoint / "model.safetensors");
  for (const auto& [room, file] : {std::pair{model + 10, "optimizer.safetensors"},
                                   {model - 10, "model.safetensors"},
                                   {std::uintmax_t{200}, "metrics.jsonl"}}) {
    CAPTURE(file);
    const FileSizeLimit limit(room);
    const auto said = run(full, 1);
    CAPTURE(said);
    for (const auto* part : {file, "File too large", "make room", "same command"}) {
      CHECK(said.find(part) != std::string::npos);
    }
    CHECK(fs::exists(checkpoint));
    CHECK(!fs::exists(project / "full" / "sft" / "checkpoint.tmp"));
  }
  run(full, 0);
  check_same(project / "full", project / "whole");
}

TEST_SUITE_END();
