#include "app/device.hpp"

#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/version.h>

#include <charconv>
#include <ogpsa/error.hpp>
#include <optional>
#include <string_view>

namespace align {
namespace {

#ifdef OGPSA_ALIGN_CUDA
constexpr bool kBuiltWithCuda = true;
#else
constexpr bool kBuiltWithCuda = false;
#endif

/// N of "cuda:N", 0 of "cuda"; none of anything else.
std::optional<int> cuda_index(std::string_view name) {
  if (name == "cuda") return 0;
  if (!name.starts_with("cuda:")) return std::nullopt;
  const auto* end = name.data() + name.size();
  int index = 0;
  const auto number = std::from_chars(name.data() + 5, end, index);
  return number.ec == std::errc() && number.ptr == end && index >= 0 ? std::optional(index) : std::nullopt;
}

}  // namespace

torch::Device device_of(const std::string& name) {
  if (name == "cpu") return torch::kCPU;
  const auto index = cuda_index(name);
  if (!index) throw ogpsa::InvalidArgument(fmt::format("--device '{}' is unknown; use cpu, cuda or cuda:N", name));
  if (!kBuiltWithCuda) {
    throw ogpsa::InvalidArgument(fmt::format(
        "--device {}: this program is built without CUDA; build it with cmake --preset torch -DOGPSA_CUDA=ON and "
        "OGPSA_TORCH_DIR = the folder of a PyTorch or LibTorch with CUDA, or use --device cpu",
        name));
  }
  const auto count = static_cast<int>(torch::cuda::device_count());
  if (count == 0) {
    throw ogpsa::InvalidArgument(fmt::format(
        "--device {}: no GPU is found; nvidia-smi has to list one, and its driver has to be new enough for the CUDA of "
        "this LibTorch ({}). CUDA_VISIBLE_DEVICES may hide it. Without a GPU use --device cpu",
        name, TORCH_VERSION));
  }
  if (*index >= count) {
    throw ogpsa::InvalidArgument(fmt::format("--device {}: GPUs are numbered from 0 to {} here", name, count - 1));
  }
  return {torch::kCUDA, static_cast<c10::DeviceIndex>(*index)};
}

}  // namespace align
