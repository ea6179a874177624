#pragma once

#include <sys/resource.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "train/checkpoint.hpp"

namespace align {

/// The most memory that the process has had so far, in bytes.
inline std::int64_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return usage.ru_maxrss;
#else
  return usage.ru_maxrss * 1024;
#endif
}

/// One JSON object a line and optimizer step.
class Metrics {
 public:
  /// Goes on with the lines of steps before `next_step`: a run that was killed has written some that it will repeat.
  Metrics(const std::filesystem::path& path, std::int64_t next_step) : path_(path) {
    std::string kept;
    std::ifstream old(path);
    for (std::string line; std::getline(old, line);) {
      const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (json.is_object() && json.at("step").get<std::int64_t>() < next_step) kept += line + "\n";
    }
    write_file(path, kept);
    file_.open(path, std::ios::app);
  }

  /// \throws ogpsa::FileError
  void write(const nlohmann::json& line) { write_text(line.dump() + "\n"); }
  /// The same for a line that is JSON already; nothing for an empty one.
  void write_text(const std::string& line) {
    file_ << line << std::flush;
    if (!file_) throw ogpsa::FileError("cannot write '" + path_.string() + "': " + std::strerror(errno));
  }

 private:
  std::filesystem::path path_;
  std::ofstream file_;
};

}  // namespace align
