#pragma once

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <ogpsa/error.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

/// \file
/// Files that are there completely or not at all, whenever the program is stopped.

namespace align {

/// Writes a file under another name and renames it. \throws ogpsa::FileError; what was there before is then kept
inline void write_file(const std::filesystem::path& path, const std::string& text) {
  const auto temporary = path.string() + ".tmp";
  std::ofstream file(temporary, std::ios::binary);
  file << text;
  file.close();
  if (!file) {
    const std::string why = std::strerror(errno);
    std::error_code ignored;
    std::filesystem::remove(temporary, ignored);
    throw ogpsa::FileError("cannot write '" + temporary + "': " + why);
  }
  std::filesystem::rename(temporary, path);
}

/// Checkpoints of one run: folders checkpoint-<step>, of which the last two are kept.
class Checkpoints {
 public:
  using Use = std::function<void(const std::filesystem::path&)>;

  explicit Checkpoints(std::filesystem::path folder) : folder_(std::move(folder)) {}

  /// \param write  fills the folder it is given \throws what it throws; the other checkpoints then stay
  void save(std::int64_t step, const Use& write) const {
    const auto temporary = folder_ / "checkpoint.tmp";
    std::filesystem::remove_all(temporary);
    std::filesystem::create_directories(temporary);
    try {
      write(temporary);
    } catch (...) {
      std::error_code ignored;
      std::filesystem::remove_all(temporary, ignored);  // on a full disk the room is needed
      throw;
    }
    if (std::filesystem::exists(path_of(step))) discard(step);
    std::filesystem::rename(temporary, path_of(step));
    auto steps = all();
    for (; steps.size() > 2; steps.erase(steps.begin())) discard(steps.front());
  }
  /// Hands the last checkpoint to `read`, or, where that cannot be read, the one before.
  /// \param log  told what could not be read \return whether there was one
  /// \throws ogpsa::FileError when there are checkpoints, but none of them can be read
  bool restore(const Use& read, const std::function<void(const std::string&)>& log) const {
    auto steps = all();
    for (; !steps.empty(); steps.pop_back()) {
      try {
        read(path_of(steps.back()));
        return true;
      } catch (const ogpsa::FileError& error) {
        if (steps.size() == 1) {
          throw ogpsa::FileError(std::string(error.what()) + "; remove '" + path_of(steps[0]).string() +
                                 "' to begin anew");
        }
        log(std::string(error.what()) + "; the checkpoint before is used");
      }
    }
    return false;
  }
  std::optional<std::filesystem::path> latest() const {
    const auto steps = all();
    return steps.empty() ? std::nullopt : std::optional(path_of(steps.back()));
  }
  void remove() const {
    for (const auto step : all()) discard(step);
    for (const auto* name : {"checkpoint.tmp", "checkpoint.old"}) std::filesystem::remove_all(folder_ / name);
  }

 private:
  static constexpr std::string_view prefix_ = "checkpoint-";

  std::filesystem::path path_of(std::int64_t step) const {
    return folder_ / (std::string(prefix_) + std::to_string(step));
  }
  /// What has been removed in part, when the program is killed, must not look like a checkpoint.
  void discard(std::int64_t step) const {
    const auto old = folder_ / "checkpoint.old";
    std::filesystem::remove_all(old);
    std::filesystem::rename(path_of(step), old);
    std::filesystem::remove_all(old);
  }
  /// Steps, ascending.
  std::vector<std::int64_t> all() const {
    std::vector<std::int64_t> steps;
    if (!std::filesystem::exists(folder_)) return steps;
    for (const auto& entry : std::filesystem::directory_iterator(folder_)) {
      const auto name = entry.path().filename().string();
      if (!name.starts_with(prefix_)) continue;
      std::int64_t step = 0;
      const auto* end = name.data() + name.size();
      const auto number = std::from_chars(name.data() + prefix_.size(), end, step);
      if (number.ptr == end && number.ec == std::errc()) steps.push_back(step);
    }
    std::sort(steps.begin(), steps.end());
    return steps;
  }

  std::filesystem::path folder_;
};

}  // namespace align
