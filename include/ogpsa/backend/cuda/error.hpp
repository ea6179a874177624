#pragma once

#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>
#include <nvrtc.h>

#include <cstddef>
#include <initializer_list>
#include <string>
#include <utility>

#include "ogpsa/error.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Every status of CUDA, cuBLAS, cuSOLVER and NVRTC is checked, and becomes an exception that names the call.

namespace ogpsa {

/// A call of CUDA, cuBLAS, cuSOLVER or NVRTC failed. The message has the call, its status and the sizes.
class CudaError : public Error {
 public:
  using Error::Error;
};

/// The device has not enough memory for what was asked. What was there before is as it was, and can be used.
class CudaOutOfMemory : public CudaError {
 public:
  CudaOutOfMemory(const std::string& message, std::size_t asked, std::size_t free)
      : CudaError(message), asked_(asked), free_(free) {}

  /// Bytes that were asked for, and those that the device said were free.
  std::size_t asked() const { return asked_; }
  std::size_t free() const { return free_; }

 private:
  std::size_t asked_, free_;
};

namespace detail::cuda {

/// Sizes of a call, for its error message.
using Sizes = std::initializer_list<std::pair<const char*, Index>>;

[[noreturn]] inline void throw_failure(const char* call, const std::string& status, Sizes sizes) {
  std::string message = std::string("ogpsa: ") + call + " failed with " + status;
  const char* separator = " (";
  for (const auto& [name, value] : sizes) {
    message += separator + std::string(name) + " = " + std::to_string(value);
    separator = ", ";
  }
  throw CudaError(message + (sizes.size() > 0 ? ")" : ""));
}

inline void check(cudaError_t status, const char* call, Sizes sizes = {}) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that can be recovered from must not show up again in the next call
  throw_failure(call, std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status), sizes);
}

inline void check(cublasStatus_t status, const char* call, Sizes sizes = {}) {
  if (status != CUBLAS_STATUS_SUCCESS) throw_failure(call, cublasGetStatusName(status), sizes);
}

inline const char* status_name(cusolverStatus_t status) {
  switch (status) {
    case CUSOLVER_STATUS_NOT_INITIALIZED:
      return "CUSOLVER_STATUS_NOT_INITIALIZED";
    case CUSOLVER_STATUS_ALLOC_FAILED:
      return "CUSOLVER_STATUS_ALLOC_FAILED";
    case CUSOLVER_STATUS_INVALID_VALUE:
      return "CUSOLVER_STATUS_INVALID_VALUE";
    case CUSOLVER_STATUS_ARCH_MISMATCH:
      return "CUSOLVER_STATUS_ARCH_MISMATCH";
    case CUSOLVER_STATUS_EXECUTION_FAILED:
      return "CUSOLVER_STATUS_EXECUTION_FAILED";
    case CUSOLVER_STATUS_INTERNAL_ERROR:
      return "CUSOLVER_STATUS_INTERNAL_ERROR";
    default:
      return "another cuSOLVER status";
  }
}

inline void check(cusolverStatus_t status, const char* call, Sizes sizes = {}) {
  if (status == CUSOLVER_STATUS_SUCCESS) return;
  throw_failure(call, status_name(status) + (" " + std::to_string(static_cast<int>(status))), sizes);
}

inline void check(nvrtcResult status, const char* call) {
  if (status != NVRTC_SUCCESS) throw_failure(call, nvrtcGetErrorString(status), {});
}

}  // namespace detail::cuda
}  // namespace ogpsa
