#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "ogpsa/backend/cuda/error.hpp"

#if __has_include("ogpsa/backend/cuda_kernels_text.hpp")
#include "ogpsa/backend/cuda_kernels_text.hpp"
#else
#error "ogpsa: cuda_kernels_text.hpp is missing. Link ogpsa::cuda, or make it with cmake/ogpsa_cuda_kernels.cmake"
#endif

/// \file
/// Our kernels on a device: compiled by NVRTC from the text of cuda_kernels.cuh, once for each kind of device.

namespace ogpsa::detail::cuda {

/// A function of the driver, which is not linked: programs start where there is none, and say so.
template <class F>
F driver_function(const char* name) {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
  const cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found);
#else
  const cudaError_t status = cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found);
#endif
  check(status, "cudaGetDriverEntryPoint");
  if (!function || found != cudaDriverEntryPointSuccess) {
    throw CudaError(std::string("ogpsa: the CUDA driver has no ") + name + "; version 12.0 or newer is needed");
  }
  return reinterpret_cast<F>(function);
}

inline void check_driver(CUresult status, const char* call, const char* what) {
  if (status == CUDA_SUCCESS) return;
  throw CudaError(std::string("ogpsa: ") + call + " failed with CUresult " + std::to_string(static_cast<int>(status)) +
                  " (" + what + ")");
}

/// The kernels, loaded. They can be launched on every device of the kind that they were compiled for.
class Module {
 public:
  explicit Module(const void* image)
      : unload_(driver_function<Unload>("cuLibraryUnload")), launch_(driver_function<Launch>("cuLaunchKernel")) {
    const auto load = driver_function<Load>("cuLibraryLoadData");
    check_driver(load(&library_, image, nullptr, nullptr, 0, nullptr, nullptr, 0), "cuLibraryLoadData", "our kernels");
  }
  ~Module() { unload_(library_); }
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  /// Launches `blocks` blocks of 256 threads of a kernel, which takes one struct.
  template <class Parameters>
  void launch(const std::string& name, Index blocks, cudaStream_t stream, Parameters parameters) const {
    if (blocks == 0) return;
    if (blocks > 0x7fffffff) throw CudaError("ogpsa: " + name + " would need " + std::to_string(blocks) + " blocks");
    void* arguments[] = {&parameters};
    const auto status = launch_(kernel(name), static_cast<unsigned>(blocks), 1, 1, 256, 1, 1, 0,
                                static_cast<CUstream>(stream), arguments, nullptr);
    check_driver(status, "cuLaunchKernel", (name + ", " + std::to_string(blocks) + " blocks").c_str());
  }

 private:
  using Load = CUresult (*)(CUlibrary*, const void*, CUjit_option*, void**, unsigned, CUlibraryOption*, void**,
                            unsigned);
  using Unload = CUresult (*)(CUlibrary);
  using Get = CUresult (*)(CUkernel*, CUlibrary, const char*);
  using Launch = CUresult (*)(CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
                              CUstream, void**, void**);

  CUfunction kernel(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    auto& found = kernels_[name];
    if (!found) {
      const auto get = driver_function<Get>("cuLibraryGetKernel");
      check_driver(get(&found, library_, name.c_str()), "cuLibraryGetKernel", name.c_str());
    }
    return reinterpret_cast<CUfunction>(found);
  }

  Unload unload_;
  Launch launch_;
  CUlibrary library_ = nullptr;
  mutable std::mutex mutex_;
  mutable std::map<std::string, CUkernel> kernels_;
};

/// The architecture to compile for: that of the device, or the newest that this NVRTC knows.
inline std::string nvrtc_architecture(int major, int minor) {
  int count = 0;
  check(nvrtcGetNumSupportedArchs(&count), "nvrtcGetNumSupportedArchs");
  std::vector<int> known(static_cast<std::size_t>(count));
  if (count > 0) check(nvrtcGetSupportedArchs(known.data()), "nvrtcGetSupportedArchs");
  const int wanted = 10 * major + minor;
  if (std::find(known.begin(), known.end(), wanted) != known.end()) return "sm_" + std::to_string(wanted);
  int best = 0;  // PTX, which the driver compiles for a newer device
  for (const int arch : known) best = arch < wanted ? std::max(best, arch) : best;
  if (best == 0) {
    throw CudaError("ogpsa: NVRTC cannot compile for compute capability " + std::to_string(major) + "." +
                    std::to_string(minor) + "; use the CUDA toolkit that still supports this device");
  }
  return "compute_" + std::to_string(best);
}

/// The kernels compiled for `architecture` ("sm_90": a cubin, "compute_90": PTX).
inline std::vector<char> compile_kernels(const std::string& architecture) {
  struct Program {
    nvrtcProgram program = nullptr;
    ~Program() {
      if (program) nvrtcDestroyProgram(&program);
    }
  } owner;
  check(nvrtcCreateProgram(&owner.program, kernels_text, "cuda_kernels.cuh", 0, nullptr, nullptr),
        "nvrtcCreateProgram");
  const std::string option = "--gpu-architecture=" + architecture;
  // Generic lambdas have no place for __device__ that all compilers take.
  const char* options[] = {option.c_str(), "--std=c++17", "--device-as-default-execution-space"};
  if (const nvrtcResult status = nvrtcCompileProgram(owner.program, 3, options); status != NVRTC_SUCCESS) {
    std::size_t size = 0;
    nvrtcGetProgramLogSize(owner.program, &size);
    std::string log(size, '\0');
    if (size > 0) nvrtcGetProgramLog(owner.program, log.data());
    throw CudaError("ogpsa: NVRTC cannot compile our kernels for " + architecture + " (" + nvrtcGetErrorString(status) +
                    "); please report this:\n" + log.c_str());
  }
  const bool machine_code = architecture.starts_with("sm_");
  std::size_t size = 0;
  check(machine_code ? nvrtcGetCUBINSize(owner.program, &size) : nvrtcGetPTXSize(owner.program, &size),
        "nvrtcGetCUBINSize");
  std::vector<char> image(size);
  check(machine_code ? nvrtcGetCUBIN(owner.program, image.data()) : nvrtcGetPTX(owner.program, image.data()),
        "nvrtcGetCUBIN");
  return image;
}

/// The module for a device, shared by all contexts on devices of its kind for as long as one of them lives.
/// \param image  a cubin or fatbin of the user; null: compiled here
inline std::shared_ptr<const Module> load_module(int device, const void* image) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, const void*>, std::weak_ptr<const Module>> modules;
  int major = 0, minor = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "cudaDeviceGetAttribute");
  const std::lock_guard lock(mutex);
  auto& known = modules[{major, minor, image}];
  auto loaded = known.lock();
  if (!loaded) {
    loaded = image ? std::make_shared<const Module>(image)
                   : std::make_shared<const Module>(compile_kernels(nvrtc_architecture(major, minor)).data());
    known = loaded;
  }
  return loaded;
}

}  // namespace ogpsa::detail::cuda
