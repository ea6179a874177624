#pragma once

#include <cstddef>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace ogpsa::detail {

/// Memory for large arrays: aligned to cache lines, and from 4 MiB on to the huge pages that Linux is asked for
/// (several columns of a basis are read side by side, each from pages of its own).
template <class T>
struct HostAllocator {
  using value_type = T;
  static constexpr std::size_t line = 64;
  static constexpr std::size_t huge_page = std::size_t{1} << 21;

  HostAllocator() = default;
  template <class U>
  HostAllocator(const HostAllocator<U>&) {}

  T* allocate(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    void* memory = ::operator new(bytes, std::align_val_t(alignment(count)));
#ifdef __linux__
    if (alignment(count) == huge_page) madvise(memory, bytes, MADV_HUGEPAGE);  // only a hint
#endif
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t count) { ::operator delete(memory, std::align_val_t(alignment(count))); }
  /// Elements that are given no value are not set to zero.
  void construct(T* at) { ::new (static_cast<void*>(at)) T; }

  friend bool operator==(const HostAllocator&, const HostAllocator&) { return true; }

 private:
  static std::size_t alignment(std::size_t count) { return count * sizeof(T) >= 2 * huge_page ? huge_page : line; }
};

/// Memory for a while, not initialised.
template <class T>
class HostBuffer {
 public:
  explicit HostBuffer(std::ptrdiff_t count)
      : count_(static_cast<std::size_t>(count)), memory_(HostAllocator<T>().allocate(count_)) {}
  ~HostBuffer() { HostAllocator<T>().deallocate(memory_, count_); }
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;
  T* data() const { return memory_; }

 private:
  std::size_t count_;
  T* memory_;
};

}  // namespace ogpsa::detail
