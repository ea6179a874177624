#pragma once

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>

namespace align {

/// Set by Ctrl-C while somebody looks at it.
inline std::atomic<bool> stop_requested = false;

/// Thrown when the program was asked to stop; a checkpoint has been written.
struct Interrupted {};

/// Says for its lifetime that `stop_requested` is looked at.
class HeedsStop {
 public:
  HeedsStop() { ++count_; }
  ~HeedsStop() { --count_; }
  HeedsStop(const HeedsStop&) = delete;
  HeedsStop& operator=(const HeedsStop&) = delete;

  static bool any() { return count_ > 0; }

 private:
  inline static std::atomic<int> count_ = 0;
};

/// The first Ctrl-C (or SIGTERM) asks all runs to write a checkpoint and stop; the second ends the program at once, as
/// does the first where there is nothing to write (evaluation, log-probabilities of the reference policy).
inline void stop_on_signals() {
  const auto handler = [](int signal) {
    if (HeedsStop::any() && !stop_requested.exchange(true)) return;
    constexpr char text[] = "\nStopped; the same command goes on from what is saved.\n";
    [[maybe_unused]] const auto written = write(STDERR_FILENO, text, sizeof text - 1);
    std::_Exit(128 + signal);
  };
  std::signal(SIGINT, handler);
  std::signal(SIGTERM, handler);
}

}  // namespace align
