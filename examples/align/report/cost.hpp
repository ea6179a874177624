#pragma once

#include <nlohmann/json.hpp>

#include "report/run_folder.hpp"

namespace align::report {

/// What the steps of a stage cost:
///
///     {"steps": N, "seconds": sum, "seconds_per_step": median, "update_seconds_per_step": median of that part,
///      "refresh_seconds": [of each estimate of the subspace; no part of seconds_per_step], "tokens_per_second",
///      "fraction_removed": mean, "peak_memory": bytes, of the process}
///
/// What the metrics lack is left out.
nlohmann::json cost_of(const MetricTable& metrics);

}  // namespace align::report
