#include <cstdio>
#include <cstdlib>

#include "ogpsa/backend/cuda/session.hpp"
#include "standin/standin.hpp"

/// \file
/// At the end of the program nothing of CUDA may be left over.

namespace {

struct AtExit {
  AtExit() {
    standin::Device::instance();
    std::atexit([] {
      ogpsa::detail::cuda::DefaultContexts::clear();
      const std::string left = standin::Device::instance().left_over();
      if (left.empty()) return;
      std::fprintf(stderr, "stand-in for CUDA: left over at the end: %s\n", left.c_str());
      std::_Exit(1);
    });
  }
} at_exit;

}  // namespace
