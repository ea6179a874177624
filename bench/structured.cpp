/// \file
/// Structured subspaces: one projection of a model of 135 million parameters (two matrix products per matrix), and what
/// its estimation costs, against the rate of one large product.

#include <benchmark/benchmark.h>

#include "gradients.hpp"
#include "model_shapes.hpp"

using namespace ogpsa;

namespace {

void report(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

/// The rate that all others are compared with: a product of 2048 x 2048 matrices on each thread, ours.
void product(benchmark::State& state) {
  const Index n = 2048;
  const Eigen::MatrixXf a = Eigen::MatrixXf::Random(n, n), b = Eigen::MatrixXf::Random(n, n);
  Eigen::MatrixXf c = Eigen::MatrixXf::Zero(n, n);
  const auto columns = [n](const Eigen::MatrixXf& m, Index first) {
    return MatrixView<const float>(m.data() + first * n, n, 256);
  };
  for (auto _ : state) {
#pragma omp parallel for
    for (Index j = 0; j < n; j += 256) {
      detail::gemm<float>(1, MatrixView<const float>(a.data(), n, n), detail::Transpose::no, columns(b, j),
                          detail::Transpose::no, MatrixView<float>(c.data() + j * n, n, 256));
    }
  }
  report(state, 2.0 * static_cast<double>(n * n * n));
}
BENCHMARK(product)->Unit(benchmark::kMillisecond)->UseRealTime();

/// The same as Eigen does it.
void eigen_product(benchmark::State& state) {
  const Index n = 2048;
  const Eigen::MatrixXf a = Eigen::MatrixXf::Random(n, n), b = Eigen::MatrixXf::Random(n, n);
  Eigen::MatrixXf c(n, n);
  for (auto _ : state) c.noalias() = a * b;
  report(state, 2.0 * static_cast<double>(n * n * n));
}
BENCHMARK(eigen_product)->Unit(benchmark::kMillisecond)->UseRealTime();

/// All matrices but the embedding: the blocks that a structured subspace is for.
std::vector<BlockSpec> matrices(Form form) {
  std::vector<BlockSpec> blocks;
  for (const auto& block : bench::llama_135m(form)) {
    if (block.rows > 1 && block.rows < 40000) blocks.push_back(block);
  }
  return blocks;
}

/// \param block  of rank k = share of the side
double flops_of(const BlockSpec& block, double share) {
  const double side = static_cast<double>(block.form == Form::input ? block.cols : block.rows);
  return 4 * static_cast<double>(block.size()) * std::ceil(share * side);
}

enum class Of { gradient, step };

/// \param of  a step is the difference of the weights and a snapshot, and corrects the weights
template <class S, Form form, Of of = Of::gradient>
void project(benchmark::State& state) {
  const auto blocks = matrices(form);
  const double share = static_cast<double>(state.range(0)) / 100;
  double flops = 0;
  // Random orthonormal bases of the wanted ranks: what they span does not matter for the time.
  std::map<std::pair<Index, Index>, Subspace<float>> subspaces;
  std::vector<ProjectionUnit<float>> units;
  bench::Gradients<S> gradients(blocks), snapshot(of == Of::step ? blocks : std::vector<BlockSpec>{});
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const Index side = form == Form::input ? blocks[b].cols : blocks[b].rows;
    const auto rank = static_cast<Index>(std::ceil(share * static_cast<double>(side)));
    auto& subspace = subspaces[{side, rank}];
    if (subspace.rank() == 0) subspace = estimate(Eigen::MatrixXf::Random(side, rank).eval());
    ProjectionPiece<float> piece = {gradients.views[b], blocks[b].cols, blocks[b].rows, {}, {}, {}};
    if (of == Of::step) piece.origin = snapshot.views[b];
    if (form == Form::input) piece.left = subspace.basis();
    if (form == Form::output) piece.right = subspace.basis();
    units.push_back({.name = blocks[b].name, .pieces = {piece}});
    flops += flops_of(blocks[b], share);
  }
  const EigenBackend backend;
  for (auto _ : state) project_units(backend, std::span<const ProjectionUnit<float>>(units));
  report(state, flops);
}
BENCHMARK(project<float, Form::input>)
    ->ArgName("share")
    ->Arg(10)
    ->Arg(30)
    ->Arg(50)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK(project<float, Form::output>)->ArgName("share")->Arg(30)->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK(project<bfloat16, Form::input>)->ArgName("share")->Arg(30)->Unit(benchmark::kMillisecond)->UseRealTime();

BENCHMARK(project<float, Form::input, Of::step>)
    ->ArgName("share")
    ->Arg(30)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace

BENCHMARK_MAIN();
