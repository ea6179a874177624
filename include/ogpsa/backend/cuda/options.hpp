#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <cstddef>
#include <functional>
#include <optional>

/// \file
/// What a CudaBackend is made from.

namespace ogpsa {

/// Where device memory comes from, in the order of a stream. LibTorch's and RMM's allocators have this form.
struct CudaAllocator {
  /// Returns `bytes` (more than 0) of device memory, aligned to 256, or null or an exception where there is none.
  std::function<void*(std::size_t bytes, cudaStream_t stream)> allocate;
  std::function<void(void* memory, std::size_t bytes, cudaStream_t stream)> deallocate;
};

/// What the user gives to a CudaBackend; what is left out is made by it. Given handles and streams must outlive it, and
/// handles are left with the stream and the modes that they had.
struct CudaOptions {
  int device = -1;  ///< -1: the calling thread's current device
  /// On which tensors are ready to be read. Left out: a new one, in order with the default stream.
  std::optional<cudaStream_t> stream = {};
  /// Asked at every call for the stream that it works on, in the place of `stream`: for a framework that has a current
  /// stream. Work on one stream is in order with that on the stream before it, which has to live until the change.
  std::function<cudaStream_t()> current_stream = {};
  cublasHandle_t cublas = nullptr;
  cusolverDnHandle_t cusolver = nullptr;
  CudaAllocator allocator = {};  ///< empty: cudaMallocAsync
  /// Products with float bases may round their factors to TF32 (10 bits). The contract of the projection then does not
  /// hold to float rounding any more.
  bool allow_tf32 = false;
  /// Scratch memory for a batch of matrices that are projected, or whose eigenvectors are made, together; one that
  /// alone needs more gets it.
  std::size_t batch_bytes = std::size_t{256} << 20;
  /// Each of two parts of device memory through which bases in page-locked memory pass; a basis that needs more gets
  /// it.
  std::size_t staging_bytes = std::size_t{256} << 20;
  /// A cubin or fatbin of cuda_kernels.cuh for this device, which must outlive the backend; null: compiled by NVRTC.
  const void* kernels = nullptr;
};

}  // namespace ogpsa
