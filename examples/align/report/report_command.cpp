#include "report/report_command.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "report/report.hpp"

int align::report_command(int argc, char** argv) {
  std::vector<std::filesystem::path> runs;
  std::filesystem::path output = "report.html";
  CLI::App app("Shows training runs beside each other, as one HTML file that needs no network.", "ogpsa_align report");
  app.add_option("RUN_FOLDER", runs, "--output_dir of `ogpsa_align train`; a run that is not finished will do")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--output", output, "HTML file to write")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  write_report(runs, output);
  fmt::print("report in {}\n", output.string());
  return 0;
}
