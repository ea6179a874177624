#pragma once

#include <array>
#include <map>
#include <vector>

#include "ogpsa/backend/cuda/error.hpp"

/// \file
/// What a context holds: the device while it is current, a second stream for copies, and memory that stays from call
/// to call.

namespace ogpsa::detail::cuda {

/// Makes a device current while it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device) check(cudaSetDevice(device), "cudaSetDevice", {{"device", device}});
    changed_ = previous_ != device;
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
  bool changed_ = false;
};

struct Memory {
  void* data = nullptr;
  std::size_t bytes = 0;
};

/// A stream for copies beside the arithmetic, and the events by which each waits for the other.
class CopyStream {
 public:
  CopyStream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
    try {
      for (auto* event : {&filled[0], &filled[1], &used[0], &used[1]}) {
        check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
      }
    } catch (...) {
      release();
      throw;
    }
  }
  ~CopyStream() { release(); }
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;

  cudaStream_t stream() const { return stream_; }
  const void* memory = nullptr;              // what it copies to
  cudaEvent_t filled[2] = {}, used[2] = {};  // of each of two parts of memory

 private:
  void release() noexcept {
    for (auto* event : {filled[0], filled[1], used[0], used[1]}) {
      if (event) cudaEventDestroy(event);
    }
    cudaStreamDestroy(stream_);
  }
  cudaStream_t stream_ = nullptr;
};

/// A table in device memory, and what is in it.
struct Table {
  Memory memory;
  std::vector<unsigned char> content;
};

/// Scratch memory and tables, each in a slot, that stay from call to call. A step of training makes several calls with
/// tables in the same slot (for flat blocks, for matrices of one side), so that more than one is kept, the last used
/// first.
struct Workspace {
  static constexpr std::size_t kTables = 4;
  std::map<std::size_t, Memory> scratch;
  std::map<std::size_t, std::array<Table, kTables>> tables;
};

}  // namespace ogpsa::detail::cuda
