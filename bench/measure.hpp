#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "gradients.hpp"
#include "ogpsa/ogpsa.hpp"

namespace bench {

using ogpsa::Index;

inline Index size_of(const std::vector<ogpsa::BlockSpec>& blocks) {
  Index size = 0;
  for (const auto& block : blocks) size += block.size();
  return size;
}

/// \param bytes  that each iteration reads and writes
inline void report_bandwidth(benchmark::State& state, double bytes) {
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

/// Copies n elements on all threads: the bandwidth that all others are compared with.
inline void copy(const std::vector<float>& from, std::vector<float>& to) {
  const auto n = static_cast<Index>(from.size());
#pragma omp parallel for
  for (Index i = 0; i < n; i += 65536) {
    const auto bytes = static_cast<std::size_t>(std::min<Index>(65536, n - i)) * sizeof(float);
    std::memcpy(to.data() + i, from.data() + i, bytes);
  }
}

/// A projector whose flat blocks hold random subspaces of rank k.
inline ogpsa::Projector<float> random_projector(const std::vector<ogpsa::BlockSpec>& blocks, Index k,
                                                const ogpsa::ProjectorOptions& options) {
  ogpsa::Projector<float> projector(blocks, options);
  auto reference = projector.begin_refresh();
  Gradients<float> gradients(blocks);
  const std::vector<ogpsa::ConstTensorView> views(gradients.views.begin(), gradients.views.end());
  for (Index objective = 0; objective < k; ++objective) {
    for (auto& values : gradients.memory) {  // another direction for each objective
      std::rotate(values.begin(), values.begin() + 7, values.end());
    }
    reference.add(objective, views);
  }
  projector.finish_refresh(std::move(reference), 0);
  return projector;
}

}  // namespace bench
