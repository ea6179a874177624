// ogpsa_align: aligns language models with and without ogpsa, and shows what each way gained and cost.

#include <fmt/format.h>

#include <cstdio>
#include <exception>
#include <string>

#include "app/commands.hpp"
#include "report/report_command.hpp"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace {

constexpr const char* kCommands = R"(ogpsa_align COMMAND [OPTION]...

  train      SFT, DPO or SFT -> DPO on a Hugging Face checkpoint and your data, with or without protection
  report     one HTML file that shows runs of train beside each other
  evaluate   losses, accuracies, refusals of a checkpoint
  study      a tiny model and the embedded data: all forms of protection against plain training (also without COMMAND)

ogpsa_align COMMAND --help lists the options of each.
)";

int run(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "study";
  if (command == "train") return align::train_command(argc - 1, argv + 1);
  if (command == "evaluate") return align::evaluate_command(argc - 1, argv + 1);
  if (command == "report") return align::report_command(argc - 1, argv + 1);
  if (command == "study") return align::study_command(argc - (argc > 1 ? 1 : 0), argv + (argc > 1 ? 1 : 0));
  if (command.starts_with("--") && command != "--help") return align::study_command(argc, argv);
  fmt::print("{}", kCommands);
  return command == "--help" || command == "-h" ? 0 : 2;
}

/// Tensors come and go in every step. glibc would return their memory and ask for it anew, which the system clears page
/// by page. The largest still come from the system: kept as well, they would leave holes that lengths of other batches
/// do not fit in, and the process would grow from step to step (from 3.4 to 11.8 GiB in 54 steps of SmolLM2-135M).
void keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_THRESHOLD, 32 << 20);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  try {
    return run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ogpsa_align: %s\n", error.what());
    return 1;
  }
}
