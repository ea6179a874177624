#pragma once

#include <torch/types.h>

#include <string>

namespace align {

/// The device that goes by a name: cpu, cuda (the first one) or cuda:N.
/// \throws ogpsa::InvalidArgument when there is none, or this program is built without CUDA; it says what to do
torch::Device device_of(const std::string& name);

}  // namespace align
