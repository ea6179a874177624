#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;
using test::Tensors;

namespace test_refresh {
namespace {

const std::vector<BlockSpec> blocks = {{.name = "a", .rows = 5, .cols = 8}, {.name = "b", .cols = 30}};

template <class T>
void check_span(const test::MatrixL& history, const Subspace<T>& subspace, Index rank, double tolerance) {
  REQUIRE(subspace.rank() == rank);
  const auto svd = test::exact_svd(history);
  CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<T>);
  CHECK(test::sine_of_angle(svd.u.leftCols(rank), test::exact(subspace.basis())) <= tolerance);
  for (Index i = 0; i < rank; ++i) {
    CHECK(subspace.singular_values()(i) == doctest::Approx(static_cast<double>(svd.s(i))).epsilon(tolerance));
  }
}

test::VectorL normalized(const test::VectorL& v) { return v / v.norm(); }

}  // namespace

TEST_CASE_TEMPLATE("refresh: per batch, the subspace is that of all batch gradients", T, float, double) {
  Random random(1);
  Projector<T> projector(blocks, {.reference = {.collect = Collect::batch, .rank = {.max_rank = 8}}});
  auto collector = projector.begin_refresh();
  std::vector<std::vector<test::VectorL>> history(2);
  for (int i = 0; i < 7; ++i) {
    const Tensors<T> batch(blocks, random, std::exp(3 * random.normal()));
    collector.add(i % 3, batch.const_views(), 1 + i);
    for (const std::size_t b : {0, 1}) history[b].push_back(normalized(batch.flat(b)));
  }
  projector.finish_refresh(std::move(collector), 0);
  for (const std::size_t b : {0, 1}) {
    check_span(test::columns(history[b]), projector.subspace(blocks[b].name), 7, 100 * test::roundoff<T>);
  }
}

TEST_CASE_TEMPLATE("refresh: periodic replaces, streaming folds in with forgetting", T, float, double) {
  for (const Collect collect : {Collect::objective, Collect::batch}) {
    for (const bool streaming : {false, true}) {
      CAPTURE(static_cast<int>(collect));
      CAPTURE(streaming);
      Random random(2);
      const double gamma = 0.7;
      Projector<T> projector(blocks, {.policy = streaming ? RefreshPolicy::streaming : RefreshPolicy::periodic,
                                      .forgetting = gamma,
                                      .reference = {.collect = collect, .rank = {.max_rank = 12}}});
      test::MatrixL history(30, 0);
      std::vector<Tensors<T>> h;
      for (int step = 0; step < 5; ++step) {
        h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
        test::refresh(projector, h, step);
        const test::MatrixL fresh = test::columns({normalized(h[0].flat(1)), normalized(h[1].flat(1))});
        test::MatrixL next(30, (streaming ? history.cols() : 0) + 2);
        if (streaming) next.leftCols(history.cols()) = Real(gamma) * history;
        next.rightCols(2) = fresh;
        history = next;
      }
      const auto& subspace = projector.subspace("b");
      check_span(history, subspace, streaming ? 10 : 2, 200 * test::roundoff<T>);
      if (collect == Collect::batch) {
        CHECK(subspace.objectives().cols() == 0);
        continue;
      }
      // The objectives are the latest ones.
      const test::MatrixL rebuilt = test::exact(subspace.basis()) * subspace.objectives().template cast<Real>();
      CHECK((rebuilt - history.rightCols(2)).norm() <= 64 * test::roundoff<T>);
      Tensors<T> g(blocks, random);
      const Report report = projector.project_gradients(g.views());
      CHECK(report.entries[1].result.objective_coefficients.size() == 2);
      for (const auto& objective : h) {
        CHECK(std::abs(normalized(objective.flat(1)).dot(g.flat(1))) <= 32 * test::roundoff<T> * g.flat(1).norm());
      }
    }
  }
}

TEST_CASE_TEMPLATE("refresh: a stream of 2,000 small batches keeps the contract and the latest objectives", T, float,
                   double) {
  Random random(3);
  Projector<T> projector(blocks, {.policy = RefreshPolicy::streaming,
                                  .refresh_every = 1,
                                  .granularity = Granularity::global,
                                  .projection = {.mode = ProjectionMode::one_sided},
                                  .reference = {.rank = {.max_rank = 6}}});
  const int steps = test::small_sizes ? 200 : 2000;
  for (int step = 0; step < steps; ++step) {
    std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
    if (step % 5 == 0) h[1] = h[0];
    if (step % 7 == 0) h[0] = Tensors<T>(blocks);  // all zero
    test::refresh(projector, h, step);
  }
  const auto& subspace = projector.subspace("a");
  CHECK(subspace.rank() == 6);
  CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<T>);
  Tensors<T> g(blocks, random);
  const Tensors<T> before = g;
  const auto report = projector.project_gradients(g.views(), steps);
  CHECK(report.basis_age == 1);
  CHECK(report.entries[0].result.norm_after <= report.entries[0].result.norm_before * (1 + 1e-6));
}

TEST_CASE("refresh: energy and tolerance choose the rank per block") {
  Random random(4);
  Projector<double> projector(blocks,
                              {.reference = {.collect = Collect::batch, .normalize = false, .rank = {.energy = 0.9}}});
  auto collector = projector.begin_refresh();
  const Tensors<double> base(blocks, random);
  for (int i = 0; i < 6; ++i) {
    Tensors<double> batch(blocks, random, 0.05);
    for (std::size_t j = 0; j < 40; ++j) batch[0][j] += base[0][j];  // block a: one strong direction
    collector.add(0, batch.const_views());
  }
  projector.finish_refresh(std::move(collector), 0);
  CHECK(projector.subspace("a").rank() == 1);
  CHECK(projector.subspace("b").rank() > 3);
}

TEST_CASE("refresh: nothing changes before finish, and a second collector is independent of the first") {
  Random random(5);
  Projector<float> projector(blocks);
  const std::vector<Tensors<float>> h = {Tensors<float>(blocks, random)};
  test::refresh(projector, h);
  const test::MatrixL before = test::exact(projector.subspace("a").basis());
  auto first = projector.begin_refresh();
  auto second = projector.begin_refresh();
  first.add(0, Tensors<float>(blocks, random).const_views());
  second.add(0, h[0].const_views());
  CHECK(test::exact(projector.subspace("a").basis()) == before);
  projector.finish_refresh(std::move(second), 3);
  CHECK(test::exact(projector.subspace("a").basis()) == before);
  projector.finish_refresh(std::move(first), 4);
  CHECK(test::exact(projector.subspace("a").basis()) != before);
}

}  // namespace test_refresh
