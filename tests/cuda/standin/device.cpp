#include "standin.hpp"

#include <sys/mman.h>

#include <Eigen/Core>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace standin {

namespace {
constexpr std::size_t kAlignment = 256, kMargin = 256;
constexpr int kMarginByte = 0xa5, kFreshByte = 0xff;  // 0xff...: NaN in every floating type
constexpr std::size_t kPage = 4096, kLarge = std::size_t{1} << 18;
}  // namespace

void wrong(const char* call, const std::string& why) {
  std::fprintf(stderr, "stand-in for CUDA: wrong call of %s: %s\n", call, why.c_str());
  std::abort();
}

Device& Device::instance() {
  static auto* device = new Device;  // outlives every static object
  return *device;
}

Device::Device() : arena_bytes_(std::size_t{64} << 30) {
  void* arena = mmap(nullptr, arena_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (arena == MAP_FAILED) wrong("mmap", "no address space");
  arena_ = static_cast<char*>(arena);
  // Where the processor has protection keys, they lock the memory in no time; a thread starts with all keys locked, and
  // so would those that Eigen's products in the libraries start.
  Eigen::setNbThreads(1);
  key_ = pkey_alloc(0, PKEY_DISABLE_ACCESS);
  if (key_ >= 0) pkey_mprotect(arena_, arena_bytes_, PROT_READ | PROT_WRITE, key_);
}

void Device::open() {
  if (open_++ > 0) return;
  if (key_ >= 0) {
    pkey_set(key_, 0);
  } else if (high_ > 0 && locked_) {
    mprotect(arena_, high_, PROT_READ | PROT_WRITE);
    locked_ = false;
  }
}
void Device::close() {
  if (--open_ > 0) return;
  if (key_ >= 0) {
    pkey_set(key_, PKEY_DISABLE_ACCESS);
  } else if (high_ > 0 && (++closed_ < 1000 || closed_ % 32 == 0)) {  // it takes time, so not always
    mprotect(arena_, high_, PROT_NONE);
    locked_ = true;
  }
}

void* Device::allocate(std::size_t bytes, Stream& stream) {
  // Few sizes, so that memory is found again and the arena stays small.
  const std::size_t room = std::bit_ceil(std::max(bytes + kMargin, 2 * kAlignment));
  if (used_ + bytes > capacity) return nullptr;
  char* memory = nullptr;
  if (const auto found = free_.find(room); found != free_.end()) {
    memory = found->second;
    free_.erase(found);
  } else {
    if (high_ + room + kPage > arena_bytes_) wrong("cudaMallocAsync", "the stand-in has used up its address space");
    static std::size_t next = 0;
    memory = arena_ + next;
    next += room;
    const std::size_t before = high_;
    high_ = (next + kPage - 1) / kPage * kPage;
    if (!locked_ && key_ < 0) mprotect(arena_ + before, high_ - before, PROT_READ | PROT_WRITE);
  }
  used_ += bytes;
  live_[memory] = {bytes, room};
  enqueue(stream, [memory, bytes, room] {
    std::memset(memory, kFreshByte, bytes);
    std::memset(memory + bytes, kMarginByte, kMargin);
  });
  return memory;
}

void Device::check_margin(const char* memory, const Block& block) const {
  for (std::size_t i = block.bytes; i < block.bytes + kMargin; ++i) {
    if (static_cast<unsigned char>(memory[i]) != kMarginByte) {
      wrong("a kernel or library",
            "wrote " + std::to_string(i - block.bytes) + " bytes beyond a block of " + std::to_string(block.bytes));
    }
  }
}

void Device::deallocate(void* pointer, Stream& stream) {
  auto* memory = static_cast<char*>(pointer);
  const auto found = live_.find(memory);
  if (found == live_.end()) wrong("cudaFreeAsync", "not the start of a live block");
  const Block block = found->second;
  live_.erase(found);
  used_ -= block.bytes;
  enqueue(stream, [this, memory, block] {
    check_margin(memory, block);
    if (block.room >= kLarge) {
      madvise(memory, block.room, MADV_DONTNEED);  // the fewer pages there are, the faster they are locked
    } else {
      std::memset(memory, kFreshByte, block.bytes);
    }
    free_.emplace(block.room, memory);
  });
}

void* Device::allocate_host(std::size_t bytes) {
  auto* memory = static_cast<char*>(std::malloc(bytes));
  pinned_[memory] = bytes;
  return memory;
}
void Device::deallocate_host(void* memory) {
  if (pinned_.erase(static_cast<char*>(memory)) == 0) wrong("cudaFreeHost", "not page-locked memory");
  for (auto& [handle, stream] : streams_) run(stream);  // as the call does
  run(default_stream_);
  std::free(memory);
}

bool Device::is_device(const void* p) const {
  const auto* memory = static_cast<const char*>(p);
  return memory >= arena_ && memory < arena_ + arena_bytes_;
}
bool Device::is_pinned(const void* p, std::size_t bytes) const {
  const auto* memory = static_cast<const char*>(p);
  auto after = pinned_.upper_bound(memory);
  if (after == pinned_.begin()) return false;
  --after;
  return memory + bytes <= after->first + after->second;
}

void Device::require(const char* call, const char* what, const void* p, std::size_t bytes) const {
  const auto* memory = static_cast<const char*>(p);
  if (bytes == 0 || is_pinned(p, bytes)) return;
  if (!is_device(p)) wrong(call, std::string(what) + " is not in device memory");
  auto after = live_.upper_bound(memory);
  if (after != live_.begin()) {
    --after;
    if (memory + bytes <= after->first + after->second.bytes) return;
  }
  wrong(call, std::string(what) + ": " + std::to_string(bytes) + " bytes do not lie in one live block");
}
void Device::require_host(const char* call, const char* what, const void* p) const {
  if (p == nullptr || is_device(p)) wrong(call, std::string(what) + " is not in host memory");
}

cudaStream_t Device::make_stream(bool blocking) {
  static std::uintptr_t next = 0x1000;
  const auto handle = reinterpret_cast<cudaStream_t>(next += 16);
  streams_[handle].blocking = blocking;
  return handle;
}
void Device::end_stream(cudaStream_t handle) {
  run(stream("cudaStreamDestroy", handle));
  streams_.erase(handle);
}
Stream& Device::stream(const char* call, cudaStream_t handle) {
  if (handle == nullptr) return default_stream_;
  const auto found = streams_.find(handle);
  if (found == streams_.end()) wrong(call, "not a stream, or one that was destroyed");
  return found->second;
}

void Device::enqueue(Stream& stream, std::function<void()> work) {
  if (stream.capturing) {
    stream.captured.push_back(std::move(work));
    return;
  }
  // The default stream waits for all others that block, and they for it.
  if (&stream == &default_stream_) {
    for (auto& [handle, other] : streams_) {
      if (other.blocking) run(other);
    }
  } else if (stream.blocking) {
    run(default_stream_);
  }
  stream.work.push_back(std::move(work));
}

bool Device::spoils_capture(Stream* stream) {
  bool found = false;
  for (auto& [handle, other] : streams_) {
    if (!other.capturing || (stream && stream != &other)) continue;
    other.spoiled = found = true;
  }
  return found;
}

void Device::run(Stream& stream) { run_until(stream, false); }
void Device::run_until(Stream& stream, const bool& done) {
  if (done || stream.work.empty()) return;
  open();
  while (!done && !stream.work.empty()) {
    const auto work = std::move(stream.work.front());
    stream.work.pop_front();
    work();
  }
  close();
}

void Device::require_handle(const char* call, const char* kind, const void* handle) const {
  const auto found = handles_.find(handle);
  if (found == handles_.end() || found->second != kind) wrong(call, std::string("not a live ") + kind);
}
void Device::remove(const char* call, const char* kind, const void* handle) {
  require_handle(call, kind, handle);
  handles_.erase(handle);
}

bool Device::fails(const char* call) {
  if (fail_at < 0 || --fail_at >= 0) return false;
  failed_call = call;
  return true;
}

std::string Device::left_over() const {
  std::string text;
  const auto say = [&](std::size_t count, const std::string& what) {
    if (count > 0) text += std::to_string(count) + " " + what + "; ";
  };
  say(live_.size(), "blocks of device memory");
  say(pinned_.size(), "blocks of page-locked memory");
  say(streams_.size(), "streams");
  for (const auto& [handle, kind] : handles_) say(1, kind);
  return text;
}

}  // namespace standin
