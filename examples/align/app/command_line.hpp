#pragma once

#include <CLI/CLI.hpp>

#include "app/options.hpp"

namespace align {

/// The options of `train`, on the command line or in a TOML file. Names are those of TRL and Transformers where these
/// have one; what differs between SFT and DPO has the stage in front.
void add_run_options(CLI::App& app, RunOptions& options);

/// Copies what stages share to each of them.
void finish_run_options(RunOptions& options, const std::string& method);

void add_model_options(CLI::App& app, const char* group, std::filesystem::path& model, std::filesystem::path& adapter);
void add_device_option(CLI::App& app, const char* group, std::string& device);
void add_text_options(CLI::App& app, TextOptions& options);
void add_evaluation_options(CLI::App& app, EvaluationOptions& options);

}  // namespace align
