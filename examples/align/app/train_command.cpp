#include <fmt/format.h>

#include "app/command_line.hpp"
#include "app/commands.hpp"
#include "app/run.hpp"
#include "terminal/stop.hpp"

int align::train_command(int argc, char** argv) {
  RunOptions options;
  options.sft.train = {.learning_rate = 2e-5, .num_train_epochs = 3, .per_device_train_batch_size = 8};
  options.dpo.train = {.learning_rate = 5e-6, .num_train_epochs = 1, .per_device_train_batch_size = 8};
  options.sft.protection.refresh_every = 30;
  options.dpo.protection.refresh_every = 5;
  std::string method = "structured";
  CLI::App app(
      "Aligns a Hugging Face checkpoint by SFT, DPO, or SFT -> DPO, with or without protection of what it can.",
      "ogpsa_align train");
  app.add_option("--method", method, "plain, ogpsa (the published rule), ogpsa-step, structured, structured-gradient")
      ->group("Protection")
      ->capture_default_str();
  add_run_options(app, options);
  CLI11_PARSE(app, argc, argv);
  finish_run_options(options, method);
  stop_on_signals();
  try {
    AlignmentRun(options).execute(stop_requested);
  } catch (const Interrupted&) {
    fmt::print(stderr, "Stopped; the same command goes on from here.\n");
    return 130;
  }
  return 0;
}
