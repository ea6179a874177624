#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "terminal/stop.hpp"

using namespace align;

namespace {

/// What a process ends with that is sent signals while it heeds a request to stop, or does not.
int end_of(bool heeds, int signals) {
  const pid_t child = fork();
  if (child == 0) {
    close(STDERR_FILENO);
    stop_requested = false;
    stop_on_signals();
    const auto send = [&] {
      for (int i = 0; i < signals; ++i) std::raise(SIGTERM);
    };
    if (heeds) {
      const HeedsStop here;
      send();
    } else {
      send();
    }
    std::_Exit(stop_requested ? 1 : 0);
  }
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  return WEXITSTATUS(status);
}

}  // namespace

TEST_CASE("stop: the first signal is a request where somebody heeds it, else the end; the second is the end") {
  CHECK(end_of(true, 0) == 0);
  CHECK(end_of(true, 1) == 1);
  CHECK(end_of(true, 2) == 128 + SIGTERM);
  CHECK(end_of(false, 1) == 128 + SIGTERM);
}
