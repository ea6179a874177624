#pragma once

#include <random>
#include <vector>

#include "ogpsa/ogpsa.hpp"

namespace bench {

/// Gradients of a model in one storage type, each tensor in memory of its own.
template <class S>
struct Gradients {
  std::vector<std::vector<S>> memory;
  std::vector<ogpsa::TensorView> views;

  explicit Gradients(const std::vector<ogpsa::BlockSpec>& blocks) {
    std::minstd_rand random(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (const auto& block : blocks) {
      auto& values = memory.emplace_back(static_cast<std::size_t>(block.size()));
      for (auto& value : values) value = static_cast<S>(uniform(random));
      views.emplace_back(values.data(), ogpsa::dtype_of<S>(), block.rows, block.cols);
    }
  }
};

}  // namespace bench
