#pragma once

#include <atomic>
#include <csignal>
#include <cstdlib>

namespace align {

/// Set by Ctrl-C.
inline std::atomic<bool> stop_requested = false;

/// Thrown when the program was asked to stop; a checkpoint has been written.
struct Interrupted {};

/// The first Ctrl-C (or SIGTERM) asks all runs to write a checkpoint and stop; the second ends the program at once.
inline void stop_on_signals() {
  const auto handler = [](int signal) {
    if (stop_requested.exchange(true)) std::_Exit(128 + signal);
  };
  std::signal(SIGINT, handler);
  std::signal(SIGTERM, handler);
}

}  // namespace align
