/// \file
/// How one projection grows with the size of the blocks and the rank of their subspaces.

#include <benchmark/benchmark.h>

#include <cstring>
#include <string>

#include "gradients.hpp"

using namespace ogpsa;
using bench::Gradients;

namespace {

/// As many blocks of n elements as make up 16 million, which no cache holds; one, if n is more.
std::vector<BlockSpec> blocks_of(Index n) {
  std::vector<BlockSpec> blocks;
  for (Index b = 0; b < std::max<Index>(1, (Index{1} << 24) / n); ++b) {
    blocks.push_back({.name = std::to_string(b), .cols = n});
  }
  return blocks;
}

void report(benchmark::State& state, Index elements) {
  const double bytes = static_cast<double>(elements) * sizeof(float);
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

/// The limit: reads and writes n elements.
void copy(benchmark::State& state) {
  const Index n = state.range(0);
  const std::vector<float> from(static_cast<std::size_t>(n), 1);
  std::vector<float> to(from.size());
  for (auto _ : state) {
#pragma omp parallel for
    for (Index i = 0; i < n; i += 65536) {
      std::memcpy(to.data() + i, from.data() + i,
                  static_cast<std::size_t>(std::min<Index>(65536, n - i)) * sizeof(float));
    }
  }
  report(state, 2 * n);
}
BENCHMARK(copy)->ArgName("n")->Arg(1 << 24)->Arg(1'000'000'000)->Unit(benchmark::kMillisecond)->UseRealTime();

void project(benchmark::State& state) {
  const auto blocks = blocks_of(state.range(0));
  const Index k = state.range(1);
  Gradients<float> gradients(blocks);
  Projector<float> projector(blocks, {.projection = {.known_finite = true}});
  auto reference = projector.begin_refresh();
  for (Index objective = 0; objective < k; ++objective) {
    for (std::size_t b = 0; b < blocks.size(); ++b) {  // another direction for each objective
      auto& g = gradients.memory[b];
      std::rotate(g.begin(), g.begin() + 7, g.end());
    }
    reference.add(objective, std::vector<ConstTensorView>(gradients.views.begin(), gradients.views.end()));
  }
  projector.finish_refresh(std::move(reference), 0);
  Index elements = 0;
  for (const auto& block : blocks) elements += block.size();
  for (auto _ : state) projector.project_gradients(gradients.views);
  report(state, (k + 2) * elements);
}
BENCHMARK(project)
    ->ArgNames({"n", "K"})
    ->ArgsProduct({{64, 256, 1024, 4096, 16384, 65536, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 100'000'000}, {1, 2}})
    ->Args({1'000'000'000, 1})
    ->ArgsProduct({{1 << 18, 1 << 22}, {4, 8, 16, 32, 64}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
