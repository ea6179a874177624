#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "options.hpp"

/// \file
/// Which runs a study has, and in what order.

namespace align {

/// One training run. Its result lies in `folder`, relative to that of the study.
struct Run {
  std::uint64_t seed = 0;
  std::string stage = {};  ///< base, sft, dpo or sft-dpo
  std::string arm = {};    ///< method, with the learning rate where there are several
  ProtectionOptions protection = {};
  TrainOptions train = {};
  std::filesystem::path start = {};  ///< folder of the run whose model it starts from; empty: random weights

  std::filesystem::path folder() const {
    const auto seed_folder = std::filesystem::path("seed" + std::to_string(seed));
    return stage == "base" ? seed_folder / "base" : seed_folder / stage / arm;
  }
};

namespace detail {

inline const StageOptions& stage_options(const StudyOptions& options, const std::string& stage) {
  if (stage == "sft") return options.sft;
  if (stage == "dpo") return options.dpo;
  if (stage == "sft-dpo") return options.sft_dpo;
  throw ogpsa::InvalidArgument("there is no stage '" + stage + "'; use sft, dpo or sft-dpo");
}

inline std::vector<Method> methods_of(const StudyOptions& options) {
  std::vector<Method> methods;
  for (const auto method : {Method::plain, Method::ogpsa, Method::ogpsa_step, Method::structured}) {
    if (std::count(options.methods.begin(), options.methods.end(), name(method)) > 0) methods.push_back(method);
  }
  if (methods.size() == options.methods.size()) return methods;
  throw ogpsa::InvalidArgument("a method is unknown or given twice; use plain, ogpsa, ogpsa-step and structured");
}

inline std::vector<double> learning_rates(const StageOptions& stage, Method method) {
  if (method == Method::ogpsa) return {stage.ogpsa_learning_rate};
  if (method == Method::ogpsa_step) return {stage.ogpsa_step_learning_rate};
  if (method == Method::structured) return {stage.structured_learning_rate};
  return stage.plain_learning_rates;
}

}  // namespace detail

/// Arms of a stage for one seed. Arm i of SFT -> DPO goes on from arm i of SFT.
inline std::vector<Run> arms(const StudyOptions& options, const std::string& stage, std::uint64_t seed) {
  const auto& settings = detail::stage_options(options, stage);
  std::vector<Run> runs;
  for (const auto method : detail::methods_of(options)) {
    const auto rates = detail::learning_rates(settings, method);
    for (std::size_t i = 0; i < rates.size(); ++i) {
      Run run{.seed = seed, .stage = stage, .arm = name(method), .train = settings.train};
      if (method == Method::plain) run.arm += "-" + std::to_string(i + 1);
      run.train.learning_rate = rates[i];
      run.train.seed = seed;
      run.protection = {method, settings.refresh_every, options.max_share, options.reference_batch_size};
      run.start = Run{.seed = seed, .stage = "base"}.folder();
      if (stage == "sft-dpo") run.start = Run{.seed = seed, .stage = "sft", .arm = run.arm}.folder();
      runs.push_back(std::move(run));
    }
  }
  return runs;
}

/// All runs, each after the one it starts from. \throws ogpsa::InvalidArgument
inline std::vector<Run> make_plan(const StudyOptions& options) {
  const auto has = [&](const char* stage) {
    return std::count(options.stages.begin(), options.stages.end(), stage) > 0;
  };
  if (has("sft-dpo") && options.sft.plain_learning_rates.size() != options.sft_dpo.plain_learning_rates.size()) {
    throw ogpsa::InvalidArgument(
        "SFT and SFT -> DPO need the same number of plain learning rates, since each run of "
        "the second goes on from one of the first");
  }
  std::vector<Run> plan;
  for (const auto seed : options.seeds) {
    plan.push_back({.seed = seed, .stage = "base", .arm = "base", .train = options.base});
    plan.back().train.seed = seed;
  }
  for (const auto seed : options.seeds) {
    for (const auto* stage : {"sft", "dpo", "sft-dpo"}) {
      if (!has(stage) && !(std::string(stage) == "sft" && has("sft-dpo"))) continue;
      for (auto& run : arms(options, stage, seed)) plan.push_back(std::move(run));
    }
  }
  return plan;
}

}  // namespace align
