/// \file
/// How one projection grows with the size of the blocks and the rank of their subspaces.

#include <string>

#include "measure.hpp"

using namespace ogpsa;
using bench::Gradients;
using bench::report_bandwidth;

namespace {

/// As many blocks of n elements as make up 16 million, which no cache holds; one, if n is more.
std::vector<BlockSpec> blocks_of(Index n) {
  std::vector<BlockSpec> blocks;
  for (Index b = 0; b < std::max<Index>(1, (Index{1} << 24) / n); ++b) {
    blocks.push_back({.name = std::to_string(b), .cols = n});
  }
  return blocks;
}

/// The limit: reads and writes n elements.
void copy(benchmark::State& state) {
  const Index n = state.range(0);
  const std::vector<float> from(static_cast<std::size_t>(n), 1.0F);
  std::vector<float> to(from.size());
  for (auto _ : state) bench::copy(from, to);
  report_bandwidth(state, 2.0 * static_cast<double>(n) * sizeof(float));
}
// Several times each, in random order (bench/run.sh): others share the memory.
BENCHMARK(copy)
    ->ArgName("n")
    ->Arg(1 << 24)
    ->Arg(1'000'000'000)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->Repetitions(9)
    ->MinTime(0.1);

void project(benchmark::State& state) {
  const auto blocks = blocks_of(state.range(0));
  const Index k = state.range(1);
  const auto projector = bench::random_projector(blocks, k, {.projection = {.known_finite = true}});
  Gradients<float> gradients(blocks);
  for (auto _ : state) projector.project_gradients(gradients.views);
  report_bandwidth(state, static_cast<double>((k + 2) * bench::size_of(blocks)) * sizeof(float));
}
BENCHMARK(project)
    ->ArgNames({"n", "K"})
    ->ArgsProduct({{64, 256, 1024, 4096, 16384, 65536, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 100'000'000}, {1, 2}})
    ->Args({1'000'000'000, 1})
    ->ArgsProduct({{1 << 18, 1 << 22}, {4, 8, 16, 32, 64}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->Repetitions(3)
    ->MinTime(0.3);

}  // namespace

BENCHMARK_MAIN();
