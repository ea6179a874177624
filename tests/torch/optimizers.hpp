#pragma once

#include "support.hpp"

/// \file
/// Optimizers to try, with all that moves weights along what is not the gradient.

namespace test {

struct NamedOptimizer {
  const char* name;
  std::function<std::unique_ptr<torch::optim::Optimizer>(std::vector<Tensor>)> make;
};

template <class Optimizer, class Options>
NamedOptimizer optimizer(const char* name, const Options& options) {
  return {
      name, [options](std::vector<Tensor> parameters) {
        return std::unique_ptr<torch::optim::Optimizer>(std::make_unique<Optimizer>(std::move(parameters), options));
      }};
}

/// A class derived from one that is stepped block by block, whose own step is not: it clips by the norm of all.
struct ClippedSgd : torch::optim::SGD {
  using SGD::SGD;
  Tensor step(LossClosure closure = nullptr) override {
    torch::nn::utils::clip_grad_norm_(param_groups()[0].params(), 0.1);
    return SGD::step(closure);
  }
};

inline std::vector<NamedOptimizer> optimizers() {
  namespace optim = torch::optim;
  return {
      optimizer<optim::AdamW>("AdamW", optim::AdamWOptions(0.02).weight_decay(0.1)),
      optimizer<optim::AdamW>("AdamW, amsgrad", optim::AdamWOptions(0.02).weight_decay(0.1).amsgrad(true)),
      optimizer<optim::Adam>("Adam", optim::AdamOptions(0.02).weight_decay(0.1)),
      optimizer<optim::SGD>("SGD", optim::SGDOptions(0.1).momentum(0.9).nesterov(true).weight_decay(0.1)),
      optimizer<optim::RMSprop>("RMSprop", optim::RMSpropOptions(0.01).momentum(0.9).weight_decay(0.1).centered(true)),
      optimizer<optim::Adagrad>("Adagrad", optim::AdagradOptions(0.05).weight_decay(0.1).lr_decay(0.01)),
      optimizer<ClippedSgd>("a class derived from SGD", optim::SGDOptions(0.5).momentum(0.9)),
  };
}

}  // namespace test
