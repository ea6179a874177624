#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ogpsa/error.hpp>
#include <optional>
#include <string>
#include <vector>

/// \file
/// Files that are there completely or not at all, whenever the program is stopped.

namespace align {

/// Writes a file under another name and renames it. \throws ogpsa::FileError; what was there before is then kept
inline void write_file(const std::filesystem::path& path, const std::string& text) {
  const auto temporary = path.string() + ".tmp";
  {
    std::ofstream file(temporary, std::ios::binary);
    file << text;
    if (!file.flush()) {
      throw ogpsa::FileError("cannot write '" + temporary + "'; check that the folder is there and the disk not full");
    }
  }
  std::filesystem::rename(temporary, path);
}

/// Checkpoints of one run: folders checkpoint-<step>, of which the last two are kept.
class Checkpoints {
 public:
  explicit Checkpoints(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// \param write  fills the folder it is given
  void save(std::int64_t step, const std::function<void(const std::filesystem::path&)>& write) const {
    const auto temporary = folder_ / "checkpoint.tmp";
    std::filesystem::remove_all(temporary);
    std::filesystem::create_directories(temporary);
    write(temporary);
    const auto target = path_of(step);
    std::filesystem::remove_all(target);
    std::filesystem::rename(temporary, target);
    auto steps = all();
    for (; steps.size() > 2; steps.erase(steps.begin())) std::filesystem::remove_all(path_of(steps.front()));
  }
  std::optional<std::filesystem::path> latest() const {
    const auto steps = all();
    return steps.empty() ? std::nullopt : std::optional(path_of(steps.back()));
  }
  void remove() const {
    for (const auto step : all()) std::filesystem::remove_all(path_of(step));
    std::filesystem::remove_all(folder_ / "checkpoint.tmp");
  }

 private:
  static constexpr const char* prefix_ = "checkpoint-";

  std::filesystem::path path_of(std::int64_t step) const { return folder_ / (prefix_ + std::to_string(step)); }
  /// Steps, ascending.
  std::vector<std::int64_t> all() const {
    std::vector<std::int64_t> steps;
    if (!std::filesystem::exists(folder_)) return steps;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const auto name = entry.path().filename().string();
      if (name.starts_with(prefix_)) steps.push_back(std::stoll(name.substr(std::string(prefix_).size())));
    }
    std::sort(steps.begin(), steps.end());
    return steps;
  }

  std::filesystem::path folder_;
};

}  // namespace align
