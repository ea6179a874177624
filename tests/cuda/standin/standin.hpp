#pragma once

#include <cublas_v2.h>
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <cusolverDn.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

/// \file
/// A stand-in for CUDA: just the calls that ogpsa makes, on the CPU, for tests where there is no GPU. It is linked
/// instead of the libraries. It is strict where a GPU is lenient:
/// - Device memory cannot be touched by the host: it is mapped without access while no device work runs. It starts as
///   NaN, is followed by a margin whose bytes are checked, and every pointer that a call gets must lie in a live block.
/// - Work on a stream waits until somebody synchronises with it (or copies to pageable memory), so that a result that
/// is
///   read too early is not there.
/// - Blocks and threads of a kernel run in one order, then in the reverse, so that what depends on it comes out.
/// - Sizes, leading dimensions, types, workspaces and handles are checked. A wrong call ends the program with a
/// message.
/// - In the capture of a graph, calls that wait, allocate or read pageable memory are refused, and so is the graph.
/// - Any call can be made to fail.

namespace standin {

using Index = std::int64_t;

/// Ends the program: a call was wrong.
[[noreturn]] void wrong(const char* call, const std::string& why);

struct Stream {
  bool blocking = true;  // in order with the default stream
  std::deque<std::function<void()>> work;
  bool capturing = false, spoiled = false;  // in capture work is not done but noted; an illegal call ends that
  std::vector<std::function<void()>> captured;
};

class Device {
 public:
  static Device& instance();

  std::recursive_mutex mutex;

  // Memory
  void* allocate(std::size_t bytes, Stream& stream);  ///< null: out of memory
  void deallocate(void* memory, Stream& stream);
  void* allocate_host(std::size_t bytes);
  void deallocate_host(void* memory);
  bool is_device(const void* p) const;  ///< anywhere in the device's address space
  bool is_pinned(const void* p, std::size_t bytes) const;
  /// Ends the program unless [p, p + bytes) lies in a live block of device memory, or is page-locked.
  void require(const char* call, const char* what, const void* p, std::size_t bytes) const;
  /// Ends the program where p is in device memory.
  void require_host(const char* call, const char* what, const void* p) const;
  std::size_t capacity = std::size_t{4} << 30;
  std::size_t used() const { return used_; }

  // Streams
  cudaStream_t make_stream(bool blocking);
  void end_stream(cudaStream_t stream);
  Stream& stream(const char* call, cudaStream_t stream);
  void enqueue(Stream& stream, std::function<void()> work);
  void run(Stream& stream);
  /// True when a stream (null: any) is in capture, which is spoiled by the call that asks.
  bool spoils_capture(Stream* stream = nullptr);
  /// Runs what was asked for until `done`, which some of that work makes true.
  void run_until(Stream& stream, const bool& done);

  // Handles of all kinds
  void add(const char* kind, const void* handle) { handles_[handle] = kind; }
  void require_handle(const char* call, const char* kind, const void* handle) const;
  void remove(const char* call, const char* kind, const void* handle);

  /// True when this call is to fail. Calls are counted from `fail_at` down; -1: none fails.
  bool fails(const char* call);
  Index fail_at = -1;
  std::string failed_call;      ///< the one that was made to fail
  Index eigenvalues_fail = -1;  ///< which matrix of a batch does not converge (0: that of a call for one); -1: none
  bool eager_copies = false;    ///< copies from page-locked memory are done as soon as they may be

  std::map<std::string, Index> calls;  ///< how often each was called
  /// What is still there: blocks, streams, handles.
  std::string left_over() const;

 private:
  Device();
  struct Block {
    std::size_t bytes, room;
  };
  void open();
  void close();
  void check_margin(const char* memory, const Block& block) const;

  char* arena_ = nullptr;
  std::size_t arena_bytes_ = 0, high_ = 0, used_ = 0;
  int open_ = 0;
  bool locked_ = true;
  Index closed_ = 0;
  int key_ = -1;  // of memory protection; -1: there are none
  std::map<const char*, Block> live_;
  std::multimap<std::size_t, char*> free_;
  std::map<const char*, std::size_t> pinned_;
  Stream default_stream_;
  std::map<cudaStream_t, Stream> streams_;
  std::map<const void*, std::string> handles_;
};

/// A kernel that can be launched: it takes one struct.
struct Kernel {
  const char* name;
  std::size_t parameters;
  void (*run)(const void* parameters, Index blocks, bool reverse);
};
const std::vector<Kernel>& kernels();

/// An object of ours as a handle, which has to be given back.
template <class Made, class Handle>
void hand_out(const char* kind, Made* made, Handle* handle) {
  Device::instance().add(kind, made);
  *handle = reinterpret_cast<Handle>(made);
}
template <class Made, class Handle>
void take_back(const char* call, const char* kind, Handle handle) {
  auto& device = Device::instance();
  const std::lock_guard lock(device.mutex);
  device.remove(call, kind, handle);
  delete reinterpret_cast<Made*>(handle);
}

#define STANDIN_CALL(failure)                                     \
  auto& device = ::standin::Device::instance();                   \
  const std::lock_guard<std::recursive_mutex> lock(device.mutex); \
  ++device.calls[__func__];                                       \
  if (device.fails(__func__)) return failure
#define STANDIN_REQUIRE(condition) \
  if (!(condition)) ::standin::wrong(__func__, "not so: " #condition)

}  // namespace standin
