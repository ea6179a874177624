#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>
#include <string>

#include "train/checkpoint.hpp"

namespace align {

/// \throws ogpsa::FileError
inline nlohmann::json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw ogpsa::FileError("cannot read '" + path.string() + "'; check the path");
  try {
    return nlohmann::json::parse(file);
  } catch (const nlohmann::json::exception& error) {
    throw ogpsa::FileError("'" + path.string() + "' is not JSON: " + error.what());
  }
}

/// Writes the settings of a new folder, or compares them with those of a folder that is gone on with.
/// \param advice  what to do when they differ
/// \throws ogpsa::InvalidArgument naming what differs, ogpsa::FileError
inline void check_settings(const std::filesystem::path& file, const nlohmann::json& settings,
                           const std::string& advice) {
  if (!std::filesystem::exists(file)) return write_file(file, settings.dump(2) + "\n");
  const auto difference = nlohmann::json::diff(read_json(file), settings);
  if (difference.empty()) return;
  throw ogpsa::InvalidArgument("'" + file.parent_path().string() + "' was made with another " +
                               difference[0].at("path").get<std::string>().substr(1) + "; " + advice);
}

}  // namespace align
