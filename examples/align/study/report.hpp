#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "study/compare.hpp"
#include "study/run.hpp"

/// \file
/// What a study found, per arm.

namespace align::study {

/// Results of one arm over the seeds.
struct ArmReport {
  std::string stage, arm;
  std::vector<Result> results;
  std::vector<std::optional<Comparison>> comparisons;  ///< one per seed; none: safer or less safe than any plain run

  template <class F>
  Spread over_seeds(F value) const {
    std::vector<double> values;
    for (const auto& result : results) values.push_back(value(result.evaluation));
    return spread(values);
  }
  template <class F>
  Spread over_comparisons(F value) const {
    std::vector<double> values;
    for (const auto& c : comparisons) {
      if (c) values.push_back(value(*c));
    }
    return spread(values);
  }
};

inline std::vector<ArmReport> collect_reports(const StudyOptions& options, const Workbench& bench) {
  std::vector<ArmReport> reports{{"base", "base", {}, {}}};
  for (const auto seed : options.seeds) {
    reports[0].results.push_back(bench.result({.seed = seed, .stage = "base", .arm = "base"}));
  }
  for (const auto& stage : options.stages) {
    std::vector<ArmReport> arm_reports;
    for (std::size_t s = 0; s < options.seeds.size(); ++s) {
      const auto& base = reports[0].results[s].evaluation;
      TradeOffCurve curve;
      const auto cost = [](const Evaluation& e) { return Cost{e.mean().loss, e.mean().exact_match}; };
      curve.add(safety_loss(base, stage), cost(base));
      const auto runs = arms(options, stage, options.seeds[s]);
      for (const auto& run : runs) {
        const auto result = bench.result(run);
        if (run.protection.method == Method::plain)
          curve.add(safety_loss(result.evaluation, stage), cost(result.evaluation));
      }
      for (std::size_t a = 0; a < runs.size(); ++a) {
        if (s == 0) arm_reports.push_back({stage, runs[a].arm, {}, {}});
        const auto& e = arm_reports[a].results.emplace_back(bench.result(runs[a])).evaluation;
        const auto plain = curve.at(safety_loss(e, stage));
        auto& comparison = arm_reports[a].comparisons.emplace_back();
        if (!plain || runs[a].protection.method == Method::plain) continue;
        comparison = Comparison{e.mean().loss - base.mean().loss, plain->loss - base.mean().loss,
                                e.mean().exact_match - plain->exact_match};
      }
    }
    for (auto& report : arm_reports) reports.push_back(std::move(report));
  }
  return reports;
}

/// All of it as JSON, with every task and every seed.
inline nlohmann::json summary(const StudyOptions& options, const std::vector<ArmReport>& reports) {
  nlohmann::json rows = nlohmann::json::array();
  for (const auto& r : reports) {
    nlohmann::json row = {{"stage", r.stage},
                          {"arm", r.arm},
                          {"learning_rate", r.results[0].learning_rate},
                          {"refresh_every", r.results[0].refresh_every}};
    const auto add = [&](const char* name, auto value) { row[name] = r.over_seeds(value); };
    add("refusals", [](const Evaluation& e) { return e.refusals; });
    add("false_refusals", [](const Evaluation& e) { return e.false_refusals; });
    add("preference_accuracy", [](const Evaluation& e) { return e.preference_accuracy; });
    add("refusal_loss", [](const Evaluation& e) { return e.refusal_loss; });
    add("preference_loss", [](const Evaluation& e) { return e.preference_loss; });
    add("exact_match", [](const Evaluation& e) { return e.mean().exact_match; });
    add("general_loss", [](const Evaluation& e) { return e.mean().loss; });
    for (const auto& [task, score] : r.results[0].evaluation.tasks) {
      const auto name = task;
      row["tasks"][name] = {
          {"exact_match", r.over_seeds([&](const Evaluation& e) { return e.tasks.at(name).exact_match; })},
          {"loss", r.over_seeds([&](const Evaluation& e) { return e.tasks.at(name).loss; })}};
    }
    const auto tax = [](const Comparison& c) { return c.tax; };
    const auto plain_tax = [](const Comparison& c) { return c.plain_tax; };
    if (const auto compared = r.over_comparisons(tax); compared.count > 0) {
      row["at_equal_safety"] = {
          {"tax", compared},
          {"plain_tax", r.over_comparisons(plain_tax)},
          {"tax_change", r.over_comparisons([](const Comparison& c) { return c.tax / c.plain_tax - 1; })},
          {"exact_match_change", r.over_comparisons([](const Comparison& c) { return c.exact_match; })}};
    }
    row["seeds"] = r.results;
    rows.push_back(std::move(row));
  }
  return {{"options", options}, {"arms", rows}};
}

}  // namespace align::study
