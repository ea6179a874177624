#pragma once

#include <torch/types.h>

#include <string>
#include <utility>

#include "ogpsa/tensor_view.hpp"

/// \file
/// LibTorch tensors as views. Which devices and storage types can be read is decided here and nowhere else.

namespace ogpsa::torch {

using ::torch::Tensor;

/// Storage type of a tensor. \param what  names it in messages: "parameter 'fc.weight'"
/// \throws InvalidArgument for a type that has no counterpart.
inline DType storage_type(const Tensor& tensor, const std::string& what) {
  switch (tensor.scalar_type()) {
    case ::torch::kFloat:
      return DType::float32;
    case ::torch::kDouble:
      return DType::float64;
    case ::torch::kBFloat16:
      return DType::bfloat16;
    case ::torch::kHalf:
      return DType::float16;
    default:
      throw InvalidArgument("ogpsa: " + what + " is stored as " + ::c10::toString(tensor.scalar_type()) +
                            "; float32, float64, bfloat16 and float16 are supported. Exclude it, or convert it");
  }
}

/// Where the tensors of a backend are: `backend.device()`, or on the CPU where it has no such member.
template <class B>
at::Device device_of(const B& backend) {
  if constexpr (requires { backend.device(); }) {
    return backend.device();
  } else {
    return ::torch::kCPU;
  }
}

/// What to do about a tensor that is not where a projector works.
inline std::string device_advice(const at::Device& device) {
  if (!device.is_cpu()) return "move it there with to(torch::Device(\"" + device.str() + "\"))";
  return "move it to the CPU, or use CudaGradientProjector (ogpsa/torch/cuda.hpp)";
}

/// \param device  where it has to be, see `device_of`
/// \throws InvalidArgument naming the tensor when it is sparse, on another device, or of an unsupported type.
inline void check_tensor(const Tensor& tensor, const std::string& what, const at::Device& device) {
  if (tensor.layout() != ::torch::kStrided) {
    throw InvalidArgument("ogpsa: " + what + " is sparse; use a dense gradient (EmbeddingOptions::sparse(false)) or " +
                          "exclude that parameter");
  }
  if (tensor.device() != device) {
    throw InvalidArgument("ogpsa: " + what + " is on " + tensor.device().str() + ", but this projector works on " +
                          device.str() + "; " + device_advice(device));
  }
  storage_type(tensor, what);
}

/// Shape of a parameter as a matrix: `out x in` for a linear layer, `out x (in kh kw)` for a convolution, `1 x n` for a
/// vector.
inline std::pair<Index, Index> matrix_shape(const Tensor& tensor) {
  if (tensor.dim() < 2) return {1, tensor.numel()};
  return {tensor.size(0), tensor.numel() == 0 ? 0 : tensor.numel() / tensor.size(0)};
}

/// Views the memory of a contiguous tensor. \throws as `check_tensor`
inline TensorView view(const Tensor& tensor, const std::string& what, const at::Device& device) {
  check_tensor(tensor, what, device);
  if (!tensor.is_contiguous()) throw InvalidArgument("ogpsa: " + what + " is not contiguous in memory");
  const auto [rows, cols] = matrix_shape(tensor);
  return {tensor.data_ptr(), storage_type(tensor, what), rows, cols};
}

namespace detail {

/// A tensor in contiguous memory: its own where it is contiguous, else a copy that `write_back` returns to it.
class Contiguous {
 public:
  explicit Contiguous(const Tensor& original) : original_(original.detach()), memory_(original_.contiguous()) {}

  const Tensor& memory() const { return memory_; }
  void write_back() const {
    ::torch::NoGradGuard no_grad;
    if (memory_.data_ptr() != original_.data_ptr()) original_.copy_(memory_);
  }

 private:
  Tensor original_, memory_;
};

}  // namespace detail
}  // namespace ogpsa::torch
