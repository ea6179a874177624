#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "ogpsa/backend/cuda/module.hpp"
#include "ogpsa/backend/cuda/options.hpp"
#include "ogpsa/backend/cuda/resources.hpp"

/// \file
/// What a CudaBackend works with: a device, a stream, the handles of the libraries, and memory.

namespace ogpsa::detail::cuda {

/// Shared by all copies of a backend and by the matrices that it made. One thread at a time works with it (Session).
class Context {
 public:
  explicit Context(const CudaOptions& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  cublasHandle_t cublas() const { return cublas_; }
  cusolverDnHandle_t cusolver() const { return cusolver_; }
  const Module& module() const { return *module_; }
  bool allow_tf32() const { return options_.allow_tf32; }
  std::size_t batch_bytes() const { return options_.batch_bytes; }
  std::size_t l2_bytes() const { return static_cast<std::size_t>(l2_bytes_); }
  int multiprocessors() const { return multiprocessors_; }
  std::recursive_mutex& mutex() { return mutex_; }
  /// Goes over to the stream that is current, where one is asked for: what comes then waits for all that was before, so
  /// that memory that is used again stays in order.
  void follow_stream();
  /// Goes over to another workspace (null: its own), and to another stream where one is given, without an order between
  /// the two. \returns those before
  std::pair<Workspace*, cudaStream_t> redirect(Workspace* workspace, std::optional<cudaStream_t> stream) {
    return {std::exchange(workspace_, workspace ? workspace : &own_),
            std::exchange(stream_, stream ? *stream : stream_)};
  }
  void release(Workspace& workspace) noexcept;

  /// Device memory in the order of the stream. \throws CudaOutOfMemory
  void* allocate(std::size_t bytes);
  void deallocate(void* memory, std::size_t bytes) noexcept;
  /// Page-locked memory of the host, which the device can read and write. \throws CudaOutOfMemory
  void* allocate_on_host(std::size_t bytes);
  /// Waits for the work on the stream.
  void deallocate_on_host(void* memory) noexcept;
  /// Whether it lies in such memory.
  bool is_on_host(const void* p) const;
  /// Made when it is first asked for.
  CopyStream& copies() {
    if (!copies_) copies_ = std::make_unique<CopyStream>();
    return *copies_;
  }
  std::size_t staging_bytes() const { return options_.staging_bytes; }

  /// Memory that lives until the next call for the same slot asks for more: after the first step of a training loop
  /// nothing is allocated any more. What was in it may be gone.
  template <class S>
  S* scratch(std::size_t slot, Index count) {
    return static_cast<S*>(at_least(workspace_->scratch[slot], static_cast<std::size_t>(count) * sizeof(S)));
  }
  /// A table in device memory; it is copied only where it is none of those that the slot keeps (Workspace).
  template <class S>
  const S* upload(std::size_t slot, const S* table, Index count) {
    return static_cast<const S*>(upload_bytes(slot, table, static_cast<std::size_t>(count) * sizeof(S)));
  }
  /// Numbers from device memory; waits until they are there.
  template <class S>
  std::vector<S> fetch(const S* from, Index count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(S);
    if (bytes == 0) return {};
    S* host = static_cast<S*>(pinned_bytes(bytes));
    copy_to_host(from, host, bytes);
    return {host, host + count};
  }
  /// Copies plain memory; to the host it waits until the copy is done.
  void copy_to_host(const void* from, void* to, std::size_t bytes) const {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync to the host",
          {{"bytes", static_cast<Index>(bytes)}});
    synchronize();
  }
  void copy_to_device(const void* from, void* to, std::size_t bytes) const {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync to the device",
          {{"bytes", static_cast<Index>(bytes)}});
    // From page-locked memory the copy may still be going on, and the caller may free it.
    synchronize();
  }
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

 private:
  [[noreturn]] void throw_out_of_memory(std::size_t bytes, const std::string& reason) const;
  void* at_least(Memory& memory, std::size_t bytes);
  const void* upload_bytes(std::size_t slot, const void* from, std::size_t bytes);
  void* page_locked(std::size_t bytes) const;
  void* pinned_bytes(std::size_t bytes);
  void release() noexcept;

  CudaOptions options_;
  int device_ = 0, l2_bytes_ = 0, multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t event_ = nullptr;  // only with options_.current_stream
  cublasHandle_t cublas_ = nullptr;
  cusolverDnHandle_t cusolver_ = nullptr;
  std::shared_ptr<const Module> module_;
  Workspace own_;
  Workspace* workspace_ = &own_;
  Memory pinned_;
  std::map<const char*, std::size_t> on_host_;
  std::unique_ptr<CopyStream> copies_;
  std::recursive_mutex mutex_;
};

inline Context::Context(const CudaOptions& options) : options_(options), device_(options.device) {
  if (device_ < 0) check(cudaGetDevice(&device_), "cudaGetDevice");
  const DeviceGuard guard(device_);
  check(cudaDeviceGetAttribute(&l2_bytes_, cudaDevAttrL2CacheSize, device_), "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&multiprocessors_, cudaDevAttrMultiProcessorCount, device_), "cudaDeviceGetAttribute");
  try {
    if (options.current_stream) {
      stream_ = options.current_stream();
      check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    } else if (options.stream) {
      stream_ = *options.stream;
    } else {
      // In order with the default stream, on which the caller may have made his tensors.
      check(cudaStreamCreateWithFlags(&stream_, cudaStreamDefault), "cudaStreamCreateWithFlags");
    }
    cublas_ = options.cublas;
    if (!cublas_) check(cublasCreate(&cublas_), "cublasCreate");
    cusolver_ = options.cusolver;
    if (!cusolver_) check(cusolverDnCreate(&cusolver_), "cusolverDnCreate");
    module_ = load_module(device_, options.kernels);
  } catch (...) {
    release();
    throw;
  }
}

inline Context::~Context() {
  std::optional<DeviceGuard> guard;
  try {
    guard.emplace(device_);
  } catch (const CudaError&) {  // the driver is shutting down; what can be given back still is
  }
  release();
}

inline void Context::release(Workspace& workspace) noexcept {
  for (const auto& [slot, memory] : workspace.scratch) deallocate(memory.data, memory.bytes);
  for (const auto& [slot, tables] : workspace.tables) {
    for (const auto& table : tables) deallocate(table.memory.data, table.memory.bytes);
  }
  workspace = {};
}

inline void Context::release() noexcept {
  release(own_);
  copies_.reset();
  if (pinned_.data) cudaFreeHost(pinned_.data);
  if (cusolver_ && !options_.cusolver) cusolverDnDestroy(cusolver_);
  if (cublas_ && !options_.cublas) cublasDestroy(cublas_);
  if (event_) cudaEventDestroy(event_);
  if (stream_ && !options_.stream && !options_.current_stream) cudaStreamDestroy(stream_);
}

inline void Context::follow_stream() {
  if (!options_.current_stream) return;
  const cudaStream_t current = options_.current_stream();
  if (current == stream_) return;
  check(cudaEventRecord(event_, stream_), "cudaEventRecord");
  check(cudaStreamWaitEvent(current, event_, 0), "cudaStreamWaitEvent");
  stream_ = current;
}

inline void Context::throw_out_of_memory(std::size_t bytes, const std::string& reason) const {
  std::size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  cudaGetLastError();
  throw CudaOutOfMemory("ogpsa: device " + std::to_string(device_) + " has no memory for " + std::to_string(bytes) +
                            " bytes: " + reason + "; " + std::to_string(free) + " of " + std::to_string(total) +
                            " bytes are free. Everything is as it was. Use fewer directions (max_rank, max_share), or "
                            "free memory and try again",
                        bytes, free);
}

inline void* Context::allocate(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = nullptr;
  if (options_.allocator.allocate) {
    std::string reason = "the allocator gave none";
    try {
      memory = options_.allocator.allocate(bytes, stream_);
    } catch (const std::exception& e) {
      reason = e.what();
    }
    if (!memory) throw_out_of_memory(bytes, reason);
    return memory;
  }
  const cudaError_t status = cudaMallocAsync(&memory, bytes, stream_);
  if (status == cudaErrorMemoryAllocation) throw_out_of_memory(bytes, "cudaMallocAsync failed");
  check(status, "cudaMallocAsync", {{"bytes", static_cast<Index>(bytes)}});
  return memory;
}

inline void Context::deallocate(void* memory, std::size_t bytes) noexcept {
  if (!memory) return;
  if (options_.allocator.deallocate) return options_.allocator.deallocate(memory, bytes, stream_);
  cudaFreeAsync(memory, stream_);
}

inline void* Context::page_locked(std::size_t bytes) const {
  void* memory = nullptr;
  const cudaError_t status = cudaMallocHost(&memory, bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw CudaOutOfMemory("ogpsa: cudaMallocHost: the host has no " + std::to_string(bytes) +
                              " bytes that can be page-locked. Everything is as it was. Use fewer directions "
                              "(max_rank), or free memory and try again",
                          bytes, 0);
  }
  check(status, "cudaMallocHost", {{"bytes", static_cast<Index>(bytes)}});
  return memory;
}

inline void* Context::allocate_on_host(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  void* memory = page_locked(bytes);
  on_host_[static_cast<const char*>(memory)] = bytes;
  return memory;
}

inline void Context::deallocate_on_host(void* memory) noexcept {
  if (!memory) return;
  cudaStreamSynchronize(stream_);
  if (copies_) cudaStreamSynchronize(copies_->stream());  // after a failure nobody else has waited for it
  cudaFreeHost(memory);
  on_host_.erase(static_cast<const char*>(memory));
}

inline bool Context::is_on_host(const void* p) const {
  const auto* memory = static_cast<const char*>(p);
  auto after = on_host_.upper_bound(memory);
  if (after == on_host_.begin()) return false;
  --after;
  return memory < after->first + after->second;
}

inline void* Context::at_least(Memory& memory, std::size_t bytes) {
  if (memory.bytes >= bytes) return memory.data;
  if (memory.data && copies_) cudaStreamSynchronize(copies_->stream());
  deallocate(memory.data, memory.bytes);
  memory = {};
  memory.data = allocate(bytes);
  memory.bytes = bytes;
  return memory.data;
}

inline const void* Context::upload_bytes(std::size_t slot, const void* from, std::size_t bytes) {
  if (bytes == 0) return nullptr;
  auto& tables = workspace_->tables[slot];
  const auto* begin = static_cast<const unsigned char*>(from);
  auto found = std::find_if(tables.begin(), tables.end(), [&](const Table& table) {
    return table.content.size() == bytes && std::equal(begin, begin + bytes, table.content.begin());
  });
  const bool kept = found != tables.end();
  if (!kept) found = tables.end() - 1;
  std::rotate(tables.begin(), found, found + 1);
  Table& table = tables.front();
  if (kept) return table.memory.data;
  table.content.clear();  // should the copy fail
  void* memory = at_least(table.memory, bytes);
  check(cudaMemcpyAsync(memory, from, bytes, cudaMemcpyHostToDevice, stream_), "cudaMemcpyAsync to the device",
        {{"bytes", static_cast<Index>(bytes)}});
  table.content.assign(begin, begin + bytes);
  return memory;
}

inline void* Context::pinned_bytes(std::size_t bytes) {
  if (pinned_.bytes >= bytes) return pinned_.data;
  if (pinned_.data) cudaFreeHost(pinned_.data);
  pinned_ = {};
  pinned_ = {page_locked(bytes), bytes};
  return pinned_.data;
}

}  // namespace ogpsa::detail::cuda
