#pragma once

#include <string>
#include <vector>

#include "ogpsa/backend/cuda.hpp"

#ifndef OGPSA_ON_A_GPU
#include "standin/standin.hpp"
#endif

namespace test {

/// A tensor in device memory, with values from the host.
template <class S>
class DeviceTensor {
 public:
  explicit DeviceTensor(const std::vector<S>& values, ogpsa::Index rows = 1)
      : size_(values.size()), rows_(rows), bytes_(std::max<std::size_t>(size_ * sizeof(S), 1)) {
    ogpsa::detail::cuda::check(cudaMallocAsync(&memory_, bytes_, nullptr), "cudaMallocAsync");
    copy(memory_, values.data(), cudaMemcpyHostToDevice);
  }
  ~DeviceTensor() { cudaFreeAsync(memory_, nullptr); }
  DeviceTensor(const DeviceTensor&) = delete;
  DeviceTensor& operator=(const DeviceTensor&) = delete;

  ogpsa::TensorView view() const {
    const auto rows = rows_ > 0 ? rows_ : 1;
    return {memory_, ogpsa::dtype_of<S>(), rows, static_cast<ogpsa::Index>(size_) / rows};
  }
  void set(const std::vector<S>& values) { copy(memory_, values.data(), cudaMemcpyHostToDevice); }
  std::vector<S> values() const {
    std::vector<S> result(size_);
    copy(result.data(), memory_, cudaMemcpyDeviceToHost);
    return result;
  }

 private:
  void copy(void* to, const void* from, cudaMemcpyKind kind) const {
    if (size_ > 0) ogpsa::detail::cuda::check(cudaMemcpyAsync(to, from, size_ * sizeof(S), kind, nullptr), "copy");
    ogpsa::detail::cuda::check(cudaStreamSynchronize(nullptr), "cudaStreamSynchronize");
  }

  std::size_t size_;
  ogpsa::Index rows_;
  std::size_t bytes_;
  void* memory_ = nullptr;
};

#ifndef OGPSA_ON_A_GPU
using standin::Device;

/// How often each call was made while this lived.
class CountedCalls {
 public:
  CountedCalls() : before_(Device::instance().calls) {}
  ogpsa::Index of(const std::string& call) const {
    const auto& now = Device::instance().calls;
    const auto count = [&](const auto& calls) { return calls.count(call) ? calls.at(call) : 0; };
    return count(now) - count(before_);
  }

 private:
  std::map<std::string, standin::Index> before_;
};
#endif

}  // namespace test
