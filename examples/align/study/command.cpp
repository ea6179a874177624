#include "app/commands.hpp"

#include <fmt/format.h>
#include <torch/torch.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "study/command_line.hpp"
#include "study/table.hpp"
#include "study/workers.hpp"
#include "train/json_file.hpp"

namespace align::study {
namespace {

/// A folder belongs to one set of options. \throws ogpsa::InvalidArgument naming what differs
void check_settings(const CommandLine& line) {
  const auto path = line.out / "settings.json";
  if (line.fresh) {
    for (const auto seed : line.study.seeds) std::filesystem::remove_all(line.out / ("seed" + std::to_string(seed)));
    std::filesystem::remove(path);
  }
  nlohmann::json settings = line.study;
  settings["libtorch"] = TORCH_VERSION;
  for (const char* free : {"seeds", "stages", "arms", "checkpoint_every"}) settings.erase(free);
  std::filesystem::create_directories(line.out);
  align::check_settings(path, settings, "give another --out, the old options, or --fresh to begin again");
}

int run(const CommandLine& line) {
  const auto start = std::chrono::steady_clock::now();
  auto plan = make_plan(line.study);
  check_settings(line);
  use_one_blas_thread();
  const auto tasks = TaskGenerator(read_json(line.data / "world.json"), line.study.data_seed).generate(line.study.rows);
  const Workbench bench(line.study, tasks, line.out);
  fmt::print("{} runs in {}, {} at a time. {} general and {} safety rows; {} dropped by max_length\n", plan.size(),
             line.out.string(), line.jobs, tasks.pretraining.size(), tasks.safety.size(), bench.dropped());
  const HeedsStop here;
  stop_on_signals();
  if (!Workers(bench, std::move(plan)).run(line.jobs)) {
    fmt::print(stderr, "Stopped; the same command goes on from here.\n");
    return 130;
  }
  const auto reports = collect_reports(line.study, bench);
  write_file(line.out / "summary.json", summary(line.study, reports).dump(2) + "\n");
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("\n{}\nMean ± standard deviation, {} seed(s). Details: {}. Time: {}\n", table(reports),
             line.study.seeds.size(), (line.out / "summary.json").string(), clock_text(seconds.count()));
  return 0;
}

}  // namespace
}  // namespace align::study

int align::study_command(int argc, char** argv) {
  study::CommandLine line;
  CLI::App app(
      "Teaches a small model some tasks of an invented world, aligns it for safety with and without ogpsa, and prints "
      "what each way gained and cost.",
      "ogpsa_align study");
  study::add_options(app, line);
  CLI11_PARSE(app, argc, argv);
  return study::run(line);
}
