#include <doctest/doctest.h>

#include <thread>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

using namespace ogpsa;
using test::Random;
using test::Tensors;

namespace test_threads {
namespace {

/// Sizes such that a block has many segments, one, or less, in every form.
template <class T>
std::vector<BlockSpec> blocks() {
  const Index large = 70000, side = std::is_same_v<T, float> ? 330 : 200;
  return {{.name = "long", .cols = large},
          {.name = "matrix", .rows = 40, .cols = 70, .layout = Layout::column_major},
          {.name = "small", .cols = 3},
          {.name = "input", .rows = 150, .cols = side, .form = Form::input},
          {.name = "output", .rows = side, .cols = 30, .form = Form::output},
          {.name = "both", .rows = 60, .cols = 150, .form = Form::both}};
}

ProjectorOptions options(Granularity granularity, Index dense_limit) {
  return {
      .policy = RefreshPolicy::streaming,
      .granularity = granularity,
      .reference = {.rank = {.max_rank = 6}, .structured = {.rank = {.max_share = 0.1}, .dense_limit = dense_limit}}};
}

/// Everything that a run computes, for comparison bit by bit.
template <class T>
struct Run {
  std::vector<test::MatrixL> bases;
  Tensors<T> gradients;
  std::vector<double> numbers;

  bool operator==(const Run& other) const {
    return bases == other.bases && gradients == other.gradients && numbers == other.numbers;
  }
};

template <class T>
Run<T> run(Granularity granularity, Index dense_limit) {
  const auto specs = blocks<T>();
  Random random(1);
  Projector<T> projector(specs, options(granularity, dense_limit));
  for (int step = 0; step < 2; ++step) {
    test::refresh(projector, std::vector<Tensors<T>>{Tensors<T>(specs, random), Tensors<T>(specs, random)}, step);
  }
  Run<T> result{{}, Tensors<T>(specs, random), {}};
  for (const auto& report :
       {projector.project_gradients(result.gradients.views()), projector.project_steps(result.gradients.views())}) {
    for (const auto& entry : report.entries) {
      for (const double x : {entry.result.norm_before, entry.result.norm_after, entry.result.norm_inside}) {
        result.numbers.push_back(x);
      }
    }
  }
  for (const auto& block : specs) {
    if (block.form == Form::flat) result.bases.push_back(test::exact(projector.subspace(block.name).basis()));
    for (const Side side : {Side::input, Side::output}) {
      const bool has = block.form == Form::both || block.form == (side == Side::input ? Form::input : Form::output);
      if (has) result.bases.push_back(test::exact(projector.subspace(block.name, side).basis()));
    }
  }
  return result;
}

/// An estimate from one tall matrix alone, so that nothing else is in the parallel region.
template <class T>
std::vector<test::MatrixL> estimates() {
  std::vector<test::MatrixL> result;
  Random random(2);
  for (const Index m : {1, 8, 64}) {
    for (const Index n : {500, m == 64 ? 5000 : 70000}) {
      test::Matrix<T> h = random.gaussian<T>(n, m);
      if (m == 8) h.col(3) = h.col(1);
      auto subspace = estimate(h);
      subspace.update(EigenBackend::Matrix<T>(n, 1), 0.9);
      result.push_back(test::exact(subspace.basis()));
      test::Vector<T> g = random.gaussian<T>(n, 1);
      project(g, subspace);
      result.push_back(test::exact(g));
      if constexpr (std::is_same_v<T, float> && test::rounds_bases) {
        for (const auto storage : {BasisStorage::bfloat16, BasisStorage::int8}) {
          const StoredSubspace stored(subspace, storage);
          project(g, stored);
          result.push_back(test::exact(g));
          result.push_back(test::exact(stored.normalizer()));
          result.push_back(test::exact(stored.restore().basis()));
        }
      }
    }
  }
  return result;
}

}  // namespace

#ifdef _OPENMP
TEST_CASE_TEMPLATE("threads: the same bits for 1, 2, 3 and 8 OpenMP threads", T, float, double) {
  const int before = omp_get_max_threads();
  const std::pair<Granularity, Index> cases[] = {{Granularity::block, 64}, {Granularity::global, 4096}};
  for (const auto& one : cases) {
    const Granularity granularity = one.first;
    const Index dense_limit = one.second;
    CAPTURE(static_cast<int>(granularity));
    CAPTURE(dense_limit);
    omp_set_num_threads(1);
    const auto expected = run<T>(granularity, dense_limit);
    for (const int threads : {2, 3, 8}) {
      CAPTURE(threads);
      omp_set_num_threads(threads);
      const auto found = run<T>(granularity, dense_limit);
      CHECK(found.bases == expected.bases);
      CHECK(found.gradients == expected.gradients);
      CHECK(found.numbers == expected.numbers);
    }
  }
  omp_set_num_threads(1);
  const auto expected = estimates<T>();
  for (const int threads : {2, 3, 8}) {
    CAPTURE(threads);
    omp_set_num_threads(threads);
    CHECK(estimates<T>() == expected);
  }
  omp_set_num_threads(before);
}

TEST_CASE("threads: a single block gives the same bits alone and in a parallel region of the caller") {
  const int before = omp_get_max_threads();
  omp_set_num_threads(2);
  for (const BlockSpec& block : {BlockSpec{.name = "w", .rows = 64, .cols = 700, .form = Form::input},
                                 BlockSpec{.name = "w", .rows = 700, .cols = 64, .form = Form::output}}) {
    Random random(3);
    const std::vector<BlockSpec> specs = {block};
    Projector<float> projector(specs);
    const Tensors<float> h(specs, random), g(specs, random);
    test::refresh<float, float>(projector, {h});
    Tensors<float> alone = g, inside = g;
    projector.project_gradients(alone.views());
    Projector<float> other(specs);
#pragma omp parallel num_threads(2)
#pragma omp single
    {
      test::refresh<float, float>(other, {h});
      other.project_gradients(inside.views());
    }
    CHECK(alone == inside);
  }
  omp_set_num_threads(before);
}
#endif

TEST_CASE("threads: const operations from several threads at once give the same bits") {
  const auto specs = blocks<float>();
  Random random(4);
  Projector<float> projector(specs, options(Granularity::block, 64));
  test::refresh(projector, std::vector<Tensors<float>>{Tensors<float>(specs, random), Tensors<float>(specs, random)},
                0);
  const Tensors<float> g(specs, random);
  Tensors<float> p(specs);
  for (std::size_t i = 0; i < specs.size(); ++i) p[i].assign(p[i].size(), 2.0f);
  const auto work = [&] {
    std::vector<Tensors<float>> results(4, g);
    projector.project_gradients(results[0].views());
    projector.project_steps(results[1].views(), p.const_views());
    projector.project_weights(p.const_views(), results[2].views());
    auto collector = projector.begin_refresh();
    collector.add(0, g.const_views());
    project(std::span<float>(results[3][0]), projector.subspace("long"));
    return results;
  };
  const auto expected = work();
  std::vector<std::vector<Tensors<float>>> found(4);
  std::vector<std::thread> threads;
  for (auto& result : found) threads.emplace_back([&result, &work] { result = work(); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : found) CHECK(result == expected);
}

}  // namespace test_threads
