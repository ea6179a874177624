#include "report/report.hpp"

#include <cmath>
#include <ogpsa/error.hpp>
#include <ogpsa/version.hpp>

#include "report/arms.hpp"
#include "report/blocks.hpp"
#include "report/cost.hpp"
#include "report/page.hpp"
#include "report/run_folder.hpp"
#include "train/checkpoint.hpp"

namespace align {
namespace report {
namespace {

using nlohmann::json;

// A page stays quick and small however long a run was: longer curves become means of neighbouring steps.
constexpr std::size_t kCurvePoints = 2000, kHeatMapColumns = 200;

/// Six digits; a number that is not finite becomes null.
json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  if (value == 0) return 0;
  const double scale = std::pow(10.0, 5 - std::floor(std::log10(std::abs(value))));
  return std::isfinite(scale) ? std::round(value * scale) / scale : value;
}

/// Means over equally many neighbours each.
json curve(const std::vector<double>& values) {
  json result = json::array();
  const auto count = std::min(values.size(), kCurvePoints);
  for (std::size_t i = 0; i < count; ++i) {
    const auto first = i * values.size() / count, last = (i + 1) * values.size() / count;
    double sum = 0, known = 0;
    for (auto k = first; k < last; ++k) {
      if (std::isnan(values[k])) continue;
      sum += values[k];
      ++known;
    }
    result.push_back(rounded(sum / known));
  }
  return result;
}

/// The last of the steps that make up a point of a curve.
json curve_steps(const std::vector<std::int64_t>& steps) {
  json result = json::array();
  const auto count = std::min(steps.size(), kCurvePoints);
  for (std::size_t i = 0; i < count; ++i) result.push_back(steps[(i + 1) * steps.size() / count - 1]);
  return result;
}

json object_at(const json& object, const char* key) {
  return object.is_object() && object.contains(key) && object.at(key).is_object() ? object.at(key) : json();
}

json data_of(const StageRecord& stage, const json& settings) {
  const auto own = object_at(settings, stage.name.c_str());
  const auto train = object_at(own, "train"), protection = object_at(own, "protection");
  json data = {{"name", stage.name},
               {"finished", stage.result.is_object()},
               {"learning_rate", train.is_object() ? train.value("learning_rate", json()) : json()},
               {"method", protection.is_object() ? protection.value("method", json()) : json()},
               {"evaluation", object_at(stage.result, "evaluation")},
               {"cost", cost_of(stage.metrics)},
               {"steps", stage.metrics.steps.size()}};
  data["metrics"]["step"] = curve_steps(stage.metrics.steps);
  for (const auto& [column, values] : stage.metrics.columns) data["metrics"][column] = curve(values);
  if (!stage.blocks.blocks.empty()) {
    data["heat_map"] = heat_map(stage.blocks, kHeatMapColumns);
    data["rank"] = {{"step", curve_steps(stage.blocks.steps)}, {"rank", curve(stage.blocks.rank)}};
  }
  return data;
}

json data_of(const std::vector<RunRecord>& runs) {
  std::vector<json> settings;
  for (const auto& run : runs) settings.push_back(run.settings);
  const auto arms = arms_of(settings);
  json data = {{"arms", json::array()}, {"runs", json::array()}};
  for (const auto& arm : arms.arms) data["arms"].push_back({{"label", arm.label}, {"method", arm.method}});
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto& run = runs[i];
    json stages = json::array();
    for (const auto& stage : run.stages) stages.push_back(data_of(stage, run.settings));
    data["runs"].push_back({{"name", run.name},
                            {"model", run.model},
                            {"arm", arms.of_run[i]},
                            {"complete", run.complete},
                            {"settings", run.settings},
                            {"base", run.base},
                            {"notes", run.notes},
                            {"stages", std::move(stages)}});
  }
  return data;
}

}  // namespace
}  // namespace report

void write_report(const std::vector<std::filesystem::path>& runs, const std::filesystem::path& output) {
  if (runs.empty()) throw ogpsa::InvalidArgument("there is nothing to report; give the folder of a run");
  if (std::filesystem::is_directory(output)) {
    throw ogpsa::FileError("cannot write '" + output.string() + "': it is a folder; give the name of a file");
  }
  const auto data = report::data_of(report::read_runs(runs));
  // Names of files need not be UTF-8.
  write_file(output, report::page(data.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)));
}

}  // namespace align
