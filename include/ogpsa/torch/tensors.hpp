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

/// \throws InvalidArgument naming the tensor when it is sparse, not on the CPU, or of an unsupported type.
inline void check_tensor(const Tensor& tensor, const std::string& what) {
  if (tensor.layout() != ::torch::kStrided) {
    throw InvalidArgument("ogpsa: " + what + " is sparse; use a dense gradient (EmbeddingOptions::sparse(false)) or " +
                          "exclude that parameter");
  }
  if (!tensor.device().is_cpu()) {
    throw InvalidArgument("ogpsa: " + what + " is on " + tensor.device().str() +
                          ", but this adapter works on CPU tensors; move the module with to(torch::kCPU)");
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
inline TensorView view(const Tensor& tensor, const std::string& what) {
  check_tensor(tensor, what);
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
