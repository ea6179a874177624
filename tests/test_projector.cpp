#include <doctest/doctest.h>

#include <numbers>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;
using test::Tensors;

namespace test_projector {
namespace {

std::vector<BlockSpec> mixed_blocks() {
  return {{.name = "embedding", .rows = 30, .cols = 4, .group = "first"},
          {.name = "norm", .cols = 5, .group = "first"},
          {.name = "weight", .rows = 6, .cols = 9, .layout = Layout::column_major},
          {.name = "query", .rows = 8, .cols = 7, .group = "second"},
          {.name = "key", .rows = 3, .cols = 7, .group = "second"},
          {.name = "scalar", .cols = 1},
          {.name = "empty", .cols = 0}};
}

template <class T>
double bound(const test::VectorL& d) {
  return 32 * test::roundoff<T> * static_cast<double>(d.norm());
}

}  // namespace

TEST_CASE_TEMPLATE("projector: per block, group and global, against long double", T, float, double) {
  const auto blocks = mixed_blocks();
  Random random(1);
  const std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random, 1e-3),
                                     Tensors<T>(blocks, random)};
  using Groups = std::vector<std::vector<std::size_t>>;
  const std::pair<Granularity, Groups> cases[] = {
      {Granularity::block, {{0}, {1}, {2}, {3}, {4}, {5}, {6}}},
      {Granularity::group, {{0, 1}, {2}, {3, 4}, {5}, {6}}},
      {Granularity::global, {{0, 1, 2, 3, 4, 5, 6}}},
  };
  for (const auto& [granularity, groups] : cases) {
    CAPTURE(static_cast<int>(granularity));
    Projector<T> projector(blocks, {.granularity = granularity});
    CHECK(projector.groups() == groups);
    test::refresh(projector, h);
    Tensors<T> g(blocks, random);
    const Tensors<T> before = g;
    const Report report = projector.project_gradients(g.views());
    for (const auto& group : groups) {
      std::vector<test::VectorL> parts;
      for (const auto& objective : h) {
        parts.push_back(objective.flat(group));
        if (parts.back().norm() > 0) parts.back() /= parts.back().norm();
      }
      const test::VectorL expected = test::without(test::columns(parts), before.flat(group));
      CHECK(static_cast<double>((g.flat(group) - expected).norm()) <= 4 * bound<T>(before.flat(group)));
      for (const auto& part : parts) {
        CHECK(static_cast<double>(std::abs(part.dot(g.flat(group)))) <= bound<T>(before.flat(group)));
      }
    }
    CHECK(report.entries.size() == groups.size() - (granularity == Granularity::global ? 0 : 1));  // but `empty`
  }
}

TEST_CASE_TEMPLATE("projector: an objective is the weighted mean of its batches, however the rows are cut", S, float,
                   double, bfloat16, float16) {
  const std::vector<BlockSpec> blocks = {{.name = "a", .rows = 4, .cols = 5}, {.name = "b", .cols = 11}};
  Random random(2);
  std::vector<Tensors<S>> batches;
  const double rows[] = {3, 1, 7, 2};
  for (int i = 0; i < 4; ++i) batches.emplace_back(blocks, random);
  Projector<double> projector(blocks, {.reference = {.normalize = false}});
  auto collector = projector.begin_refresh();
  for (const std::size_t i : {0, 1, 2, 3}) collector.add(i < 2 ? 0 : 1, batches[i].const_views(), rows[i]);
  CHECK(collector.objectives() == 2);
  CHECK_FALSE(projector.ready());
  projector.finish_refresh(std::move(collector), 5);
  CHECK(projector.ready());
  CHECK(projector.last_refresh() == 5);
  for (const std::size_t b : {0, 1}) {
    const auto& subspace = projector.subspace(blocks[b].name);
    const test::VectorL first = (3 * batches[0].flat(b) + batches[1].flat(b)) / 4;
    const test::VectorL second = (7 * batches[2].flat(b) + 2 * batches[3].flat(b)) / 9;
    const test::MatrixL q = test::exact(subspace.basis());
    const test::MatrixL h = test::columns({first, second});
    const test::MatrixL rebuilt = q * subspace.objectives().template cast<Real>();
    CHECK((rebuilt - h).norm() <= 1e-13 * h.norm());
    CHECK(subspace.objective_norms()(0) == doctest::Approx(static_cast<double>(first.norm())));
    CHECK(subspace.objective_norms()(1) == doctest::Approx(static_cast<double>(second.norm())));
  }
}

TEST_CASE_TEMPLATE("projector: blocks that are left out stay out, frozen ones are zero", T, float, double) {
  const auto blocks = mixed_blocks();
  Random random(3);
  std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
  Projector<T> projector(blocks);
  auto collector = projector.begin_refresh();
  collector.add(0, h[0].const_views({2}));  // `weight` has no gradient in either
  collector.add(1, h[1].const_views({2, 3}));
  projector.finish_refresh(std::move(collector), 0);
  CHECK(projector.subspace("weight").rank() == 0);
  CHECK(projector.subspace("query").rank() == 1);
  CHECK(projector.subspace("key").rank() == 2);
  Tensors<T> g(blocks, random);
  const Tensors<T> before = g;
  const Report report = projector.project_gradients(g.views({0, 5}));
  CHECK(report.entries.size() == 4);  // nor `empty`, which has no data
  CHECK(report.entries[0].name == "norm");
  for (const std::size_t i : {0, 2, 5, 6}) CHECK(g[i] == before[i]);
  CHECK(g[3] != before[3]);
}

TEST_CASE_TEMPLATE("projector: a group of which some blocks are left out is projected exactly on the rest", T, float,
                   double) {
  const auto blocks = mixed_blocks();
  Random random(4);
  std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
  h[1][0].assign(120, T(0));  // the second objective has nothing in the first block
  for (const auto mode : {ProjectionMode::orthogonal, ProjectionMode::one_sided, ProjectionMode::inside}) {
    for (const std::vector<std::size_t>& left_out :
         {std::vector<std::size_t>{1, 3}, {0, 2, 3, 4, 5, 6}, {1, 2, 3, 4, 5, 6}}) {
      CAPTURE(static_cast<int>(mode));
      CAPTURE(left_out.size());
      Projector<T> projector(blocks, {.granularity = Granularity::global, .projection = {.mode = mode}});
      test::refresh(projector, h);
      std::vector<std::size_t> given;
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        if (std::find(left_out.begin(), left_out.end(), i) == left_out.end()) given.push_back(i);
      }
      const test::MatrixL part = test::columns({h[0].flat(given), h[1].flat(given), h[2].flat(given)});
      Tensors<T> g(blocks, random);
      const Tensors<T> before = g;
      const Report report = projector.project_gradients(g.views(left_out));
      test::VectorL expected = test::without(part, before.flat(given));
      if (mode == ProjectionMode::inside) expected = before.flat(given) - expected;
      if (mode == ProjectionMode::one_sided) expected = test::nearest_in_cone(part, before.flat(given));
      const double tolerance = 100 * bound<T>(before.flat(given));
      CHECK(static_cast<double>((g.flat(given) - expected).norm()) <= tolerance);
      for (const std::size_t i : left_out) CHECK(g[i] == before[i]);
      CHECK(report.entries.at(0).result.norm_before == doctest::Approx(static_cast<double>(before.flat(given).norm())));
      CHECK(report.entries.at(0).result.norm_after ==
            doctest::Approx(static_cast<double>(expected.norm())).epsilon(1e-5));
    }
  }
}

TEST_CASE_TEMPLATE("projector: one-sided and conflicting, on gradients and on steps", T, float, double) {
  const std::vector<BlockSpec> blocks = {{.name = "a", .rows = 4, .cols = 5}, {.name = "b", .cols = 11}};
  for (int round = 0; round < 20; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    CAPTURE(round);
    const std::size_t count = round % 2 == 0 ? 1 : 4;
    std::vector<Tensors<T>> h;
    for (std::size_t r = 0; r < count; ++r) h.emplace_back(blocks, random, std::exp(5 * random.normal()));
    const auto mode = count == 1 && round % 4 == 0 ? ProjectionMode::conflicting : ProjectionMode::one_sided;
    Projector<T> projector(blocks, {.projection = {.mode = mode}});
    test::refresh(projector, h);
    for (const bool is_step : {false, true}) {
      Tensors<T> g(blocks, random);
      const Tensors<T> before = g;
      is_step ? projector.project_steps(g.views()) : projector.project_gradients(g.views());
      for (const std::size_t b : {0, 1}) {
        std::vector<test::VectorL> parts;
        for (const auto& objective : h) parts.push_back(objective.flat(b));
        const Real sign = is_step ? -1 : 1;
        const test::VectorL expected = sign * test::nearest_in_cone(test::columns(parts), sign * before.flat(b));
        CHECK(static_cast<double>((g.flat(b) - expected).norm()) <= 8 * bound<T>(before.flat(b)));
        // To first order no reference loss rises: it moves by <h, step> = -<h, gradient>.
        for (const auto& part : parts) {
          CHECK(static_cast<double>(sign * part.dot(g.flat(b)) / part.norm()) >= -bound<T>(before.flat(b)));
        }
      }
    }
  }
}

TEST_CASE_TEMPLATE("projector: half precision gradients, float arithmetic", S, bfloat16, float16) {
  const auto blocks = mixed_blocks();
  Random random(5);
  const std::vector<Tensors<S>> h = {Tensors<S>(blocks, random), Tensors<S>(blocks, random)};
  Projector<float> projector(blocks, {.granularity = Granularity::group});
  test::refresh(projector, h);
  Tensors<S> g(blocks, random);
  const Tensors<S> before = g;
  projector.project_gradients(g.views());
  const Real rounding = std::is_same_v<S, bfloat16> ? 0x1p-8L : 0x1p-11L;
  for (const auto& group : projector.groups()) {
    test::VectorL unit0 = h[0].flat(group), unit1 = h[1].flat(group);
    const test::VectorL expected = test::without(test::columns({unit0, unit1}), before.flat(group));
    const test::VectorL excess =
        ((g.flat(group) - expected).cwiseAbs() - 2 * rounding * expected.cwiseAbs()).cwiseMax(Real(0));
    CHECK(static_cast<double>(excess.norm()) <= 8 * bound<float>(before.flat(group)));
  }
}

TEST_CASE("projector: the report holds what the numbers say") {
  const std::vector<BlockSpec> blocks = {
      {.name = "a", .cols = 3}, {.name = "b", .rows = 2, .cols = 2}, {.name = "c", .cols = 2}};
  Tensors<double> h(blocks), g(blocks);
  h[0] = {0, 2, 0};
  h[1] = {0, 0, 0, 5};
  g[0] = {3, 4, 0};
  g[1] = {1, 0, 0, -2};
  g[2] = {6, 8};
  Projector<double> projector(blocks, {.refresh_every = 10});
  CHECK(projector.refresh_due(3));
  test::refresh<double, double>(projector, {h}, 20);
  CHECK(projector.refresh_due(20));
  CHECK_FALSE(projector.refresh_due(29));
  CHECK(projector.refresh_due(30));
  const Report report = projector.project_gradients(g.views(), 23);
  CHECK(report.step == 23);
  CHECK(report.basis_age == 3);
  REQUIRE(report.entries.size() == 3);
  const auto& [a, b, c] = std::tie(report.entries[0], report.entries[1], report.entries[2]);
  CHECK((a.name == "a" && a.rank == 1 && a.form == Form::flat));
  CHECK(a.result.norm_before == doctest::Approx(5));
  CHECK(a.result.norm_after == doctest::Approx(3));
  CHECK(a.result.fraction_removed() == doctest::Approx(16.0 / 25));
  CHECK(a.result.angle() == doctest::Approx(std::acos(4.0 / 5)));
  CHECK(a.result.objective_coefficients(0) == doctest::Approx(4));
  CHECK(b.result.objective_coefficients(0) == doctest::Approx(-2));
  CHECK(b.result.norm_after == doctest::Approx(1));
  CHECK(c.rank == 0);
  CHECK(c.result.norm_after == doctest::Approx(10));
  CHECK(c.result.objective_coefficients(0) == 0);
  const auto total = report.total();
  CHECK(total.norm_before == doctest::Approx(std::sqrt(25.0 + 5 + 100)));
  CHECK(total.norm_after == doctest::Approx(std::sqrt(9.0 + 1 + 100)));
  CHECK(total.norm_inside == doctest::Approx(std::sqrt(16.0 + 4)));
  CHECK(total.objective_coefficients(0) == doctest::Approx(2));
}

TEST_CASE_TEMPLATE("projector: the step that was taken, from weights before and after", S, float, double, bfloat16,
                   float16) {
  auto blocks = mixed_blocks();
  blocks.push_back({.name = "structured", .rows = 5, .cols = 6, .form = Form::input});
  Random random(6);
  std::vector<Tensors<S>> h = {Tensors<S>(blocks, random), Tensors<S>(blocks, random)};
  for (auto& objective : h) objective[3].assign(objective[3].size(), S(0));  // `query` has no subspace
  Projector<double> projector(blocks);
  test::refresh(projector, h);
  const Tensors<S> before(blocks, random);
  Tensors<S> after = before;
  const Tensors<S> step(blocks, random, 0.25);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (std::size_t j = 0; j < after[i].size(); ++j) after[i][j] = static_cast<S>(after[i][j] + step[i][j]);
  }
  const Tensors<S> snapshot = before, taken = after;
  const Report report = projector.project_weights(snapshot.const_views({4}), after.views({4}), 9);
  CHECK(report.step == 9);
  CHECK(report.entries.size() == blocks.size() - 2);  // but what was left out, and `empty`
  CHECK(snapshot == before);
  CHECK(after[3] == taken[3]);  // nothing to remove: bit for bit
  CHECK(after[4] == taken[4]);  // left out
  const Real rounding = sizeof(S) == 8               ? 0x1p-53L
                        : sizeof(S) == 4             ? 0x1p-24L
                        : std::is_same_v<S, float16> ? 0x1p-11L
                                                     : 0x1p-8L;
  for (const std::size_t i : {0, 1, 2, 5}) {
    CAPTURE(i);
    const test::VectorL d = taken.flat(i) - before.flat(i);
    const test::VectorL expected = before.flat(i) + test::without(test::columns({h[0].flat(i), h[1].flat(i)}), d);
    const test::VectorL excess =
        ((after.flat(i) - expected).cwiseAbs() - 2 * rounding * expected.cwiseAbs()).cwiseMax(Real(0));
    CHECK(excess.norm() <= 64 * test::roundoff<double> * (d.norm() + expected.norm()));
    CHECK(report.entries[i < 4 ? i : i - 1].result.norm_before == doctest::Approx(static_cast<double>(d.norm())));
  }
  const test::MatrixL m = test::exact(projector.subspace("structured", Side::input).basis());
  const test::MatrixL d = taken.matrix(7) - before.matrix(7), expected = before.matrix(7) + d - d * m * m.transpose();
  const test::MatrixL excess =
      ((after.matrix(7) - expected).cwiseAbs() - 2 * rounding * expected.cwiseAbs()).cwiseMax(Real(0));
  CHECK(excess.norm() <= 64 * test::roundoff<double> * (d.norm() + expected.norm()));
}

}  // namespace test_projector
