#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace align::report {

/// Runs that differ in learning rate and seed alone.
struct Arm {
  std::string label;  ///< the method, and what tells it from other arms of this method
  std::string method;
  nlohmann::json settings;  ///< what its runs share and other arms may not
};

struct Arms {
  std::vector<Arm> arms;            ///< plain ones first, else in the order of the runs
  std::vector<std::size_t> of_run;  ///< index of each run's arm
};

/// \param settings  settings.json of each run
Arms arms_of(const std::vector<nlohmann::json>& settings);

}  // namespace align::report
