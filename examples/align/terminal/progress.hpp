#pragma once

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <mutex>
#include <string>
#include <utility>

namespace align {

/// "1:05" or "2:03:04".
inline std::string clock_text(double seconds) {
  const auto s = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

/// One line at the bottom of the terminal: share done, runs, rate, time left, and what is being done. Nothing is drawn
/// where stderr is not a terminal. Several threads may report.
class Progress {
 public:
  /// \param work  rows that there are to train on (or evaluate)
  /// \param unit  of the work, for the rate
  Progress(double work, int runs, std::string unit = "rows")
      : work_(work), runs_(runs), unit_(std::move(unit)), terminal_(isatty(STDERR_FILENO) == 1) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(double rows, const std::string& what) {
    const std::lock_guard lock(mutex_);
    done_ += rows;
    const auto now = Clock::now();
    const double seconds = std::chrono::duration<double>(now - measured_).count();
    if (!terminal_ || seconds < 0.1) return;
    // Over the last seconds: runs differ in their rate.
    const double share = measured_rows_ > 0 ? 1 - std::exp(-seconds / 10) : 1;
    rate_ += share * ((done_ - measured_rows_) / seconds - rate_);
    measured_ = now;
    measured_rows_ = done_;
    draw(what);
  }
  /// Rows that turn out to be done already.
  void skip(double rows) {
    const std::lock_guard lock(mutex_);
    work_ -= rows;
  }
  /// Prints a line above the bar when a run is finished.
  void finish_run(const std::string& line) {
    const std::lock_guard lock(mutex_);
    ++finished_;
    erase();
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }
  void clear() {
    const std::lock_guard lock(mutex_);
    erase();
  }

 private:
  using Clock = std::chrono::steady_clock;

  void erase() const {
    if (terminal_) fmt::print(stderr, "\r\x1b[K");
  }
  void draw(const std::string& what) const {
    const double share = std::min(1.0, done_ / work_);
    const auto filled = static_cast<std::size_t>(share * 24);
    const auto runs = runs_ > 1 ? fmt::format("  {}/{} runs", finished_, runs_) : "";
    auto line = fmt::format("[{}{}] {:3.0f} %{}  {:.3g} {}/s  {} left  {}", std::string(filled, '='),
                            std::string(24 - filled, ' '), 100 * share, runs, rate_, unit_,
                            clock_text((work_ - done_) / std::max(rate_, 1e-9)), what);
    winsize size{};
    const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    line.resize(std::min(line.size(), static_cast<std::size_t>(known ? size.ws_col - 1 : 79)));
    fmt::print(stderr, "\r{}\x1b[K", line);
    std::fflush(stderr);
  }

  double work_;
  int runs_;
  std::string unit_;
  bool terminal_;
  std::mutex mutex_;
  double done_ = 0, measured_rows_ = 0, rate_ = 0;
  int finished_ = 0;
  Clock::time_point measured_ = Clock::now();
};

}  // namespace align
