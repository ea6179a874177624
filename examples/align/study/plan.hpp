#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "study/options.hpp"

/// \file
/// Which runs a study has, and in what order.

namespace align::study {

/// One training run. Its result lies in `folder`, relative to that of the study.
struct Run {
  std::uint64_t seed = 0;
  std::string stage = {};  ///< base, sft, dpo or sft-dpo
  std::string arm = {};    ///< of StudyOptions::arms; plain-1, plain-2, ... for its learning rates
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

inline void check_arms(const StudyOptions& options) {
  for (const auto& arm : options.arms) {
    const auto known = {"plain", "ogpsa", "ogpsa-often", "ogpsa-step", "structured"};
    if (std::count(known.begin(), known.end(), arm) == 1 &&
        std::count(options.arms.begin(), options.arms.end(), arm) == 1) {
      continue;
    }
    throw ogpsa::InvalidArgument("arm '" + arm +
                                 "' is unknown or given twice; use plain, ogpsa, ogpsa-often, ogpsa-step, structured");
  }
}

}  // namespace detail

/// Arms of a stage for one seed. Each arm of SFT -> DPO goes on from the SFT arm of that name.
inline std::vector<Run> arms(const StudyOptions& options, const std::string& stage, std::uint64_t seed) {
  detail::check_arms(options);
  const auto& settings = detail::stage_options(options, stage);
  std::vector<Run> runs;
  const auto add = [&](const std::string& arm, Method method, double learning_rate, std::int64_t refresh_every) {
    Run run{.seed = seed, .stage = stage, .arm = arm, .train = settings.train};
    run.train.learning_rate = learning_rate;
    run.train.seed = seed;
    run.protection = {method, refresh_every, options.max_share, options.reference_batch_size};
    run.start = Run{.seed = seed, .stage = "base"}.folder();
    if (stage == "sft-dpo") run.start = Run{.seed = seed, .stage = "sft", .arm = arm}.folder();
    runs.push_back(std::move(run));
  };
  for (const auto& arm : options.arms) {
    if (arm == "ogpsa") add(arm, Method::ogpsa, settings.ogpsa_learning_rate, settings.published_refresh_every);
    if (arm == "ogpsa-often") add(arm, Method::ogpsa, settings.ogpsa_learning_rate, settings.refresh_every);
    if (arm == "ogpsa-step") add(arm, Method::ogpsa_step, settings.ogpsa_step_learning_rate, settings.refresh_every);
    if (arm == "structured") add(arm, Method::structured, settings.structured_learning_rate, settings.refresh_every);
    if (arm != "plain") continue;
    for (std::size_t i = 0; i < settings.plain_learning_rates.size(); ++i) {
      add("plain-" + std::to_string(i + 1), Method::plain, settings.plain_learning_rates[i], 0);
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

}  // namespace align::study
