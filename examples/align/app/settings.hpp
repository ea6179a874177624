#pragma once

#include <nlohmann/json.hpp>

#include "app/options.hpp"

namespace align {

/// All that a run's numbers depend on: options, and versions.
nlohmann::json settings_of(const RunOptions& options);

}  // namespace align
