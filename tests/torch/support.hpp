#pragma once

#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <memory>
#include <ogpsa/torch.hpp>
#include <string>
#include <vector>

// After LibTorch, whose logging header has a CHECK of its own.
#include <doctest/doctest.h>

/// \file
/// Small models and what their gradients are by LibTorch alone.

namespace test {

using ogpsa::torch::Tensor;

/// y = W2 tanh(W1 x + b1) + b2
struct Mlp : ::torch::nn::Module {
  explicit Mlp(std::int64_t seed = 1, ::torch::Dtype dtype = ::torch::kDouble) {
    ::torch::manual_seed(static_cast<std::uint64_t>(seed));
    first = register_module("first", ::torch::nn::Linear(5, 7));
    second = register_module("second", ::torch::nn::Linear(7, 3));
    to(dtype);
  }
  Tensor forward(const Tensor& x) { return second(::torch::tanh(first(x))); }

  ::torch::nn::Linear first{nullptr}, second{nullptr};
};

/// Rows of a regression task.
struct Task {
  explicit Task(std::int64_t seed, std::int64_t rows = 12, ::torch::Dtype dtype = ::torch::kDouble) {
    ::torch::manual_seed(static_cast<std::uint64_t>(seed));
    x = ::torch::randn({rows, 5}, dtype);
    y = ::torch::randn({rows, 3}, dtype);
  }
  template <class Model>
  Tensor loss(Model& model) const {
    const Tensor error = model.forward(x) - y;
    return (error.scalar_type() == ::torch::kDouble ? error : error.to(::torch::kFloat)).pow(2).mean();
  }
  Task rows(std::int64_t first, std::int64_t count) const {
    Task part = *this;
    part.x = x.narrow(0, first, count);
    part.y = y.narrow(0, first, count);
    return part;
  }
  Tensor x, y;
};

inline std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> result;
  for (const auto& t : tensors) result.push_back(t.detach().clone());
  return result;
}

inline std::vector<Tensor> gradients_of(const std::vector<Tensor>& parameters) {
  std::vector<Tensor> result;
  for (const auto& p : parameters) result.push_back(p.grad());
  return result;
}

/// Gradient of a loss in double.
inline std::vector<Tensor> gradient(const Tensor& loss, const std::vector<Tensor>& parameters) {
  auto result = ::torch::autograd::grad({loss}, parameters);
  for (auto& g : result) g = g.to(::torch::kDouble);
  return result;
}

inline double dot_product(const Tensor& a, const Tensor& b) {
  return (a.detach().to(::torch::kDouble) * b.detach().to(::torch::kDouble)).sum().item<double>();
}
inline double two_norm(const Tensor& a) { return std::sqrt(dot_product(a, a)); }

inline bool same_bits(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (!::torch::equal(a[i].detach(), b[i].detach())) return false;
  }
  return a.size() == b.size();
}

/// What an exception of type E says; empty when none was thrown.
template <class E>
std::string message_of(const std::function<void()>& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  return {};
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace test
