#pragma once

#include <torch/torch.h>

#include <functional>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "model/autocast.hpp"

namespace align {

namespace detail {

/// Computes a function anew when its gradient is asked for, instead of keeping what its forward pass computed.
class Recompute : public torch::autograd::Node {
 public:
  using Function = std::function<torch::Tensor(const torch::Tensor&)>;

  Recompute(Function function, const torch::Tensor& x, std::vector<torch::Tensor> parameters, bool bfloat16)
      : function_(std::move(function)), x_(x.detach()), parameters_(std::move(parameters)), bfloat16_(bfloat16) {}

  torch::autograd::variable_list apply(torch::autograd::variable_list&& gradients) override {
    std::vector<torch::Tensor> inputs{x_.detach().requires_grad_()};
    inputs.insert(inputs.end(), parameters_.begin(), parameters_.end());
    torch::Tensor y;
    {
      const torch::AutoGradMode with_graph(true);
      const Autocast autocast(bfloat16_, x_.device().type());
      y = function_(inputs[0]);
    }
    return torch::autograd::grad({y}, inputs, {gradients[0]});
  }
  void release_variables() override { x_.reset(); }

 private:
  Function function_;
  torch::Tensor x_;
  std::vector<torch::Tensor> parameters_;
  bool bfloat16_;
};

/// Nodes are held by std::shared_ptr in older versions of LibTorch, by c10::intrusive_ptr in newer ones.
template <class Pointer, class... Arguments>
Pointer make_node(Arguments&&... arguments) {
  if constexpr (std::is_same_v<Pointer, std::shared_ptr<torch::autograd::Node>>) {
    return std::make_shared<Recompute>(std::forward<Arguments>(arguments)...);
  } else {
    return c10::make_intrusive<Recompute>(std::forward<Arguments>(arguments)...);
  }
}

}  // namespace detail

/// y = function(x) without keeping what lies between (activation checkpointing, Chen et al. 2016): the memory of one
/// block at a time, for one more forward pass.
/// \param parameters  all that the function uses and that have gradients
/// \param bfloat16    whether this happens under Autocast
inline torch::Tensor recomputed(const detail::Recompute::Function& function, const torch::Tensor& x,
                                const std::vector<torch::Tensor>& parameters, bool bfloat16) {
  if (!torch::GradMode::is_enabled()) return function(x);
  torch::Tensor y;
  {
    const torch::NoGradGuard no_graph;
    y = function(x).detach();
  }
  std::vector<torch::Tensor> inputs{x}, trained;
  for (const auto& p : parameters) {
    if (p.requires_grad()) trained.push_back(p);
  }
  inputs.insert(inputs.end(), trained.begin(), trained.end());
  const auto node =
      detail::make_node<decltype(torch::autograd::Edge::function)>(function, x, std::move(trained), bfloat16);
  node->set_next_edges(torch::autograd::collect_next_edges(inputs));
  node->add_input_metadata(y);
  torch::autograd::impl::set_gradient_edge(y, torch::autograd::Edge(node, 0));
  return y;
}

}  // namespace align
