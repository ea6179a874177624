#pragma once

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAStream.h>

#include "ogpsa/backend/cuda.hpp"
#include "ogpsa/torch/projector.hpp"

/// \file
/// LibTorch tensors on NVIDIA GPUs. Opt-in: torch.hpp does not include it. Needs a CUDA build of LibTorch and
/// ogpsa::torch_cuda, which links it with the CUDA backend.

namespace ogpsa::torch {

namespace detail {

/// A CUDA device with its index. \throws InvalidArgument saying what is wrong with it
inline at::Device cuda_device(const at::Device& device) {
  if (!device.is_cuda()) {
    throw InvalidArgument("ogpsa: CudaGradientProjector works on CUDA tensors, not on " + device.str() +
                          "; move the module with to(torch::kCUDA), or use GradientProjector");
  }
  const int count = c10::cuda::device_count();
  if (count == 0) throw InvalidArgument("ogpsa: LibTorch finds no GPU here; see what nvidia-smi says");
  const int index = device.has_index() ? device.index() : c10::cuda::current_device();
  if (index >= count) {
    throw InvalidArgument("ogpsa: there is no " + device.str() + " here; devices are numbered from 0 to " +
                          std::to_string(count - 1));
  }
  const at::Device found(::torch::kCUDA, static_cast<c10::DeviceIndex>(index));
  ::torch::empty({0}, found);  // LibTorch makes its allocator ready with the first tensor
  return found;
}

/// LibTorch's own memory of a device, which is shared with its tensors.
inline CudaAllocator caching_allocator(c10::DeviceIndex device) {
  namespace caching = c10::cuda::CUDACachingAllocator;
  return {[](std::size_t bytes, cudaStream_t stream) -> void* {
            try {
              return caching::raw_alloc_with_stream(bytes, stream);
            } catch (const c10::OutOfMemoryError&) {
              return nullptr;  // becomes CudaOutOfMemory; the message of this one is a page long
            }
          },
          [device](void* memory, std::size_t, cudaStream_t stream) {
            // It may have been allocated on another stream than that of its last use, which is noted for the allocator.
            c10::DataPtr owner(memory, memory, caching::get()->raw_deleter(), {::torch::kCUDA, device});
            try {
              caching::recordStream(owner, c10::cuda::getStreamFromExternal(stream, device));
              caching::raw_delete(memory);
            } catch (const c10::Error&) {
              // After an error of a kernel, or where the driver is shutting down: the memory is lost with it.
            }
            owner.release_context();
          }};
}

}  // namespace detail

/// The CUDA backend inside LibTorch: on one device, with memory of LibTorch's caching allocator, on the stream that is
/// current in LibTorch when a call is made (CUDAStreamGuard), so that it is in order with the tensors of that stream.
class LibTorchCudaBackend : public CudaBackend {
 public:
  /// \param device   CUDA; without an index the current one
  /// \param options  whose device, stream and allocator are LibTorch's
  /// \throws InvalidArgument, CudaError
  explicit LibTorchCudaBackend(const at::Device& device = ::torch::kCUDA, CudaOptions options = {})
      : LibTorchCudaBackend(std::move(options), detail::cuda_device(device)) {}

  at::Device device() const { return device_; }

 private:
  LibTorchCudaBackend(CudaOptions options, const at::Device& device)
      : CudaBackend(of_libtorch(std::move(options), device.index())), device_(device) {}

  static CudaOptions of_libtorch(CudaOptions options, c10::DeviceIndex device) {
    options.device = device;
    options.current_stream = [device] { return c10::cuda::getCurrentCUDAStream(device).stream(); };
    options.allocator = detail::caching_allocator(device);
    return options;
  }

  at::Device device_;
};

static_assert(Backend<LibTorchCudaBackend, float> && Backend<LibTorchCudaBackend, double>);

/// For parameters on one GPU: that of the first parameter that is chosen, unless a backend is given. Where a model is
/// on several, one projector for each (Options::include).
///
///     ogpsa::torch::CudaGradientProjector projector(*model, {.refresh_every = 30});
template <class T>
using BasicCudaGradientProjector = BasicGradientProjector<T, LibTorchCudaBackend>;

/// With float arithmetic.
using CudaGradientProjector = BasicCudaGradientProjector<float>;

}  // namespace ogpsa::torch
