#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/options.hpp"

namespace align {

/// All that a run's numbers depend on: options, and versions.
nlohmann::json settings_of(const RunOptions& options);

/// Writes the settings of a new folder, or compares them with those of a folder that is gone on with.
/// \throws ogpsa::InvalidArgument naming what differs
void check_settings(const std::filesystem::path& file, const nlohmann::json& settings);

}  // namespace align
