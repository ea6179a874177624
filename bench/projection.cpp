/// \file
/// One projection of a whole model of 135 million parameters, against what memory allows: (K + 2) n elements.

#include "measure.hpp"
#include "model_shapes.hpp"

using namespace ogpsa;
using bench::Gradients;
using bench::report_bandwidth;

namespace {

/// Bytes that a projection has to read and write: each basis element and each gradient once, and the gradient back.
template <class S>
double needed_bytes(const std::vector<BlockSpec>& blocks, Index k) {
  return static_cast<double>(bench::size_of(blocks)) *
         static_cast<double>(k * static_cast<Index>(sizeof(float)) + 2 * static_cast<Index>(sizeof(S)));
}

/// Copies the model, tensor after tensor.
void copy(benchmark::State& state) {
  const auto blocks = bench::llama_135m();
  const Gradients<float> from(blocks);
  Gradients<float> to(blocks);
  for (auto _ : state) {
    for (std::size_t b = 0; b < blocks.size(); ++b) bench::copy(from.memory[b], to.memory[b]);
  }
  report_bandwidth(state, needed_bytes<float>(blocks, 0));
}
BENCHMARK(copy)->Unit(benchmark::kMillisecond)->UseRealTime();

/// With all layers, or the first few where the bases of all would not fit into memory.
template <class S>
void project(benchmark::State& state) {
  const auto blocks = bench::llama_135m(Form::flat, state.range(2));
  const Index k = state.range(0);
  const auto projector = bench::random_projector(blocks, k, {.projection = {.known_finite = state.range(1) != 0}});
  Gradients<S> gradients(blocks);
  for (auto _ : state) projector.project_gradients(gradients.views);
  report_bandwidth(state, needed_bytes<S>(blocks, k));
}
BENCHMARK(project<float>)
    ->ArgNames({"K", "known_finite", "layers"})
    ->ArgsProduct({{1, 2, 4, 8}, {0, 1}, {30}})
    ->ArgsProduct({{8, 16, 32}, {1}, {7}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(project<bfloat16>)
    ->ArgNames({"K", "known_finite", "layers"})
    ->ArgsProduct({{1, 2, 4, 8}, {0, 1}, {30}})
    ->ArgsProduct({{8, 16, 32}, {1}, {7}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

/// The same with bases that are kept in another type: 0: float, 1: bfloat16, 2: int8.
void project_stored(benchmark::State& state) {
  const auto blocks = bench::llama_135m();
  const Index k = state.range(0);
  constexpr BasisStorage storages[] = {BasisStorage::full, BasisStorage::bfloat16, BasisStorage::int8};
  const BasisStorage storage = storages[state.range(1)];
  const auto projector =
      bench::random_projector(blocks, k, {.projection = {.known_finite = true}, .basis_storage = storage});
  Gradients<float> gradients(blocks);
  for (auto _ : state) projector.project_gradients(gradients.views);
  double bytes = static_cast<double>(bench::size_of(blocks) * k) * sizeof(float), angle = 0;
  if (storage != BasisStorage::full) {
    bytes = 0;
    for (const auto& block : blocks) {
      bytes += static_cast<double>(projector.stored_subspace(block.name).bytes());
      angle = std::max(angle, projector.stored_subspace(block.name).rounding_angle());
    }
  }
  report_bandwidth(state, bytes + needed_bytes<float>(blocks, 0));
  state.counters["bytes/parameter"] = bytes / static_cast<double>(bench::size_of(blocks));
  state.counters["angle"] = angle;
}
BENCHMARK(project_stored)
    ->ArgNames({"K", "storage"})
    ->ArgsProduct({{1, 2, 8}, {0, 1, 2}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

/// g -= Q (Q^T g) as Eigen does it, tensor after tensor.
void eigen(benchmark::State& state) {
  const auto blocks = bench::llama_135m();
  const Index k = state.range(0);
  Gradients<float> gradients(blocks);
  std::vector<Eigen::MatrixXf> bases;
  for (const auto& block : blocks) bases.push_back(Eigen::MatrixXf::Constant(block.size(), k, 1e-3F));
  for (auto _ : state) {
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      Eigen::Map<Eigen::VectorXf> g(gradients.memory[b].data(), blocks[b].size());
      g.noalias() -= bases[b] * (bases[b].transpose() * g).eval();
    }
  }
  report_bandwidth(state, needed_bytes<float>(blocks, k));
}
BENCHMARK(eigen)->ArgName("K")->Arg(1)->Arg(2)->Arg(8)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
