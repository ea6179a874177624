/// \file
/// Estimation of a subspace from a tall matrix (n x m), which all leave as it is, and its update by one column, against
/// Eigen's decompositions; and the leading eigenvectors of a covariance, for structured subspaces.

#include <Eigen/Dense>

#include "measure.hpp"

using namespace ogpsa;

namespace {

/// Random columns, each the one before moved on: new random numbers would take longer than what is measured.
Eigen::MatrixXf tall_matrix(Index n, Index m) {
  Eigen::MatrixXf a(n, m);
  const Eigen::VectorXf base = Eigen::VectorXf::Random(n + 977 * m);
  for (Index j = 0; j < m; ++j) a.col(j) = base.segment(977 * j, n);
  return a;
}

void report(benchmark::State& state) {
  const double bytes = static_cast<double>(state.range(0) * state.range(1)) * sizeof(float);
  bench::report_bandwidth(state, bytes);
}

void estimate_subspace(benchmark::State& state) {
  const Eigen::MatrixXf a = tall_matrix(state.range(0), state.range(1));
  for (auto _ : state) {
    const auto subspace = estimate(a);
    benchmark::DoNotOptimize(subspace.basis().data);
  }
  report(state);
  const auto subspace = estimate(a);
  state.counters["orthogonality"] =
      detail::distance_from_identity(EigenBackend().gram(subspace.basis(), subspace.basis()));
}

void eigen_householder(benchmark::State& state) {
  const Eigen::MatrixXf a = tall_matrix(state.range(0), state.range(1));
  for (auto _ : state) {
    const Eigen::HouseholderQR<Eigen::MatrixXf> qr(a);
    Eigen::MatrixXf q = qr.householderQ() * Eigen::MatrixXf::Identity(a.rows(), a.cols());
    benchmark::DoNotOptimize(q.data());
  }
  report(state);
}

void eigen_svd(benchmark::State& state) {
  const Eigen::MatrixXf a = tall_matrix(state.range(0), state.range(1));
  for (auto _ : state) {
    const Eigen::BDCSVD<Eigen::MatrixXf> svd(a, Eigen::ComputeThinU | Eigen::ComputeThinV);
    benchmark::DoNotOptimize(svd.matrixU().data());
  }
  report(state);
}

/// One more column into a subspace of rank m, with forgetting, truncated back to m.
void update_by_one(benchmark::State& state) {
  const Index n = state.range(0), m = state.range(1);
  const Eigen::MatrixXf a = tall_matrix(n, m + 1);
  auto subspace = estimate(a.leftCols(m).eval());
  HostMatrix<float> column(n, 1);
  std::copy(a.col(m).data(), a.col(m).data() + n, column.data());
  for (auto _ : state) subspace.update(HostMatrix<float>(column), 0.9, {.max_rank = m});
  report(state);
}

/// The leading eigenvectors of an n x n covariance.
void eigenvectors(benchmark::State& state) {
  const Index n = state.range(0), k = (n * state.range(1) + 99) / 100;
  const Eigen::MatrixXf x = Eigen::MatrixXf::Random(n, n);
  const Eigen::MatrixXf a = x * x.transpose();
  HostMatrix<float> vectors(n, k);
  const EigenProblem<float> problem{{a.data(), n, n}, vectors.view()};
  for (auto _ : state) {
    EigenBackend().eigenvectors(std::span(&problem, 1));
    benchmark::DoNotOptimize(vectors.data());
  }
}
BENCHMARK(eigenvectors)
    ->ArgNames({"n", "percent"})
    ->ArgsProduct({{576, 1536}, {10, 30, 50, 100}})
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

/// The factor that stands for the covariance of a long side: 256 rows of a gradient are folded into k directions.
void incremental_factor(benchmark::State& state) {
  const Index n = state.range(0), k = state.range(1);
  const Eigen::MatrixXf rows = Eigen::MatrixXf::Random(n, 256);
  KroneckerFactor<float> factor(n, {.rank = {.max_rank = k / 2}});  // it keeps twice as many
  const ConstTensorView gradient(rows.data(), DType::float32, 256, n);
  factor.add(gradient, Side::input);
  for (auto _ : state) factor.add(gradient, Side::input);
}
BENCHMARK(incremental_factor)->ArgNames({"n", "k"})->Args({18944, 128})->Unit(benchmark::kMillisecond)->UseRealTime();

/// Sizes of tall matrices of at most `Most` elements (bench/peers.py has the same).
template <Index Most>
void tall_sizes(benchmark::internal::Benchmark* measured) {
  measured->ArgNames({"n", "m"})->Unit(benchmark::kMillisecond)->UseRealTime();
  for (Index n = 100000; n <= 100000000; n *= 10) {
    for (Index m = 2; m <= 64; m *= 2) {
      if (n * m <= Most) measured->Args({n, m});
    }
  }
}

}  // namespace

BENCHMARK(estimate_subspace)->Apply(tall_sizes<320000000>);
BENCHMARK(eigen_householder)->Apply(tall_sizes<64000000>);
BENCHMARK(eigen_svd)->Apply(tall_sizes<64000000>);
BENCHMARK(update_by_one)->Apply(tall_sizes<64000000>);

BENCHMARK_MAIN();
