#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <limits>
#include <string>
#include <thread>
#include <type_traits>

#include "study/options.hpp"

namespace align::study {

struct CommandLine {
  StudyOptions study;
  std::filesystem::path out = "runs/align", data = OGPSA_ALIGN_DATA_DIR;
  int jobs = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  bool fresh = false;
};

namespace detail {

/// An option with the checks of its type: whole numbers are positive, others not negative, lists separated by commas.
template <class T>
void add_option(CLI::App& app, const std::string& group, const std::string& name, T& value, const std::string& what) {
  auto* option = app.add_option("--" + name, value, what)->capture_default_str();
  if (!group.empty()) option->group(group);
  if constexpr (std::is_integral_v<T>) option->check(CLI::Range(T{1}, std::numeric_limits<T>::max()));
  if constexpr (std::is_floating_point_v<T>) option->check(CLI::Range(0.0, 1e9));
  if constexpr (requires { value.push_back(value.front()); } && !std::is_same_v<T, std::string>) option->delimiter(',');
}

/// Options of one training stage, named as in Transformers behind the stage's name.
inline void add_train_options(CLI::App& app, const std::string& stage, TrainOptions& options) {
  const auto add = [&](const std::string& name, auto& value, const std::string& what) {
    add_option(app, stage, stage + "_" + name, value, what);
  };
  add("num_train_epochs", options.num_train_epochs, "Passes over the rows");
  add("per_device_train_batch_size", options.per_device_train_batch_size, "Rows of a micro-batch");
  add("gradient_accumulation_steps", options.gradient_accumulation_steps, "Micro-batches of an optimizer step");
  add("weight_decay", options.weight_decay, "AdamW");
  add("warmup_ratio", options.warmup_ratio, "Share of the steps in which the learning rate rises");
  add("max_grad_norm", options.max_grad_norm, "Clipping; 0: none");
}

inline void add_stage_options(CLI::App& app, const std::string& stage, StageOptions& options) {
  const auto add = [&](const std::string& name, auto& value, const std::string& what) {
    add_option(app, stage, stage + "_" + name, value, what);
  };
  add_train_options(app, stage, options.train);
  add("plain_learning_rates", options.plain_learning_rates, "Points of the trade-off curve");
  add("ogpsa_learning_rate", options.ogpsa_learning_rate, "");
  add("ogpsa_step_learning_rate", options.ogpsa_step_learning_rate, "");
  add("structured_learning_rate", options.structured_learning_rate, "");
  add("published_refresh_every", options.published_refresh_every, "ogpsa: optimizer steps between estimates");
  add("refresh_every", options.refresh_every, "The same for the other arms");
}

}  // namespace detail

/// All options, on the command line or in a TOML file.
inline void add_options(CLI::App& app, CommandLine& line) {
  auto& study = line.study;
  const auto add = [&](const std::string& name, auto& value, const std::string& what) {
    detail::add_option(app, "", name, value, what);
  };
  app.set_config("--config", "", "TOML file with any of these options");
  add("out", line.out, "Folder of the run; the same command again goes on with it, or prints its table");
  app.add_flag("--fresh", line.fresh, "Delete that folder's runs first");
  add("data", line.data, "Folder with world.json");
  add("jobs", line.jobs, "Runs side by side, each on one thread");
  add("seeds", study.seeds, "");
  add("stages", study.stages, "sft, dpo, sft-dpo");
  add("arms", study.arms, "plain, ogpsa, ogpsa-often, ogpsa-step, structured");
  add("beta", study.beta, "Of DPO");
  add("max_share", study.max_share, "structured: share of each matrix's inputs that is protected");
  add("unprotected_tasks", study.unprotected_tasks, "General tasks without reference rows");
  add("max_length", study.max_length, "Tokens of a row; longer ones are cut");
  add("checkpoint_every", study.checkpoint_every, "Optimizer steps");
  add("data_seed", study.data_seed, "");
  add("pretraining_rows", study.rows.pretraining, "");
  add("safety_rows", study.rows.safety, "");
  add("reference_rows", study.rows.reference, "Per general task");
  add("heldout_rows", study.rows.heldout, "Per task");
  add("hidden_size", study.model.hidden_size, "");
  add("intermediate_size", study.model.intermediate_size, "");
  add("num_hidden_layers", study.model.num_hidden_layers, "");
  detail::add_option(app, "base", "base_learning_rate", study.base.learning_rate, "");
  detail::add_train_options(app, "base", study.base);
  detail::add_stage_options(app, "sft", study.sft);
  detail::add_stage_options(app, "dpo", study.dpo);
  detail::add_stage_options(app, "sft_dpo", study.sft_dpo);
}

}  // namespace align::study
