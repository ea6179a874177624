#include "report/cost.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

namespace align::report {
namespace {

using Column = std::vector<double>;

double median(Column values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

double sum(const Column& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

}  // namespace

nlohmann::json cost_of(const MetricTable& metrics) {
  nlohmann::json cost = {{"steps", metrics.steps.size()}};
  /// The values of a column; none when the metrics do not have it, and 0 where a line has not.
  const auto column = [&](const std::string& name) {
    Column values;
    for (const auto& [key, all] : metrics.columns) {
      if (key == name) values = all;
    }
    std::replace_if(
        values.begin(), values.end(), [](double value) { return std::isnan(value); }, 0.0);
    return values;
  };
  auto seconds = column("seconds");
  if (seconds.empty()) return cost;
  cost["seconds"] = sum(seconds);
  if (const auto tokens = column("tokens"); !tokens.empty()) cost["tokens_per_second"] = sum(tokens) / sum(seconds);
  const auto refresh = column("refresh_seconds"), age = column("basis_age"), update = column("update_seconds"),
             removed = column("fraction_removed"), memory = column("peak_memory");
  if (!refresh.empty() && !age.empty()) {
    cost["refresh_seconds"] = nlohmann::json::array();
    for (std::size_t i = 0; i < seconds.size(); ++i) {
      seconds[i] -= refresh[i];
      if (age[i] == 0) cost["refresh_seconds"].push_back(refresh[i]);
    }
  }
  cost["seconds_per_step"] = median(seconds);
  if (!update.empty()) cost["update_seconds_per_step"] = median(update);
  if (!removed.empty()) cost["fraction_removed"] = sum(removed) / static_cast<double>(removed.size());
  if (!memory.empty()) cost["peak_memory"] = *std::max_element(memory.begin(), memory.end());
  return cost;
}

}  // namespace align::report
