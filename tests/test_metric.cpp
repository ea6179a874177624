#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;
using test::Tensors;

namespace test_metric {
namespace {

const std::vector<BlockSpec> blocks = {{.name = "a", .rows = 6, .cols = 8, .group = "g"},
                                       {.name = "b", .cols = 30, .group = "g"},
                                       {.name = "c", .rows = 4, .cols = 5, .form = Form::input},
                                       {.name = "d", .rows = 3, .cols = 7, .layout = Layout::column_major}};

/// Positive, between 1 and `condition`.
template <class S>
Tensors<S> metric(Random& random, double condition, double scale = 1) {
  Tensors<S> result(blocks);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    for (S& x : result[i]) x = static_cast<S>(scale * std::pow(condition, random.uniform()));
  }
  return result;
}

/// D - P^-1 H (H^T P^-1 H)^-1 H^T D, by QR of P^-1/2 H in long double.
test::VectorL nearest_in_metric(const test::MatrixL& h, const test::VectorL& p, const test::VectorL& d) {
  const test::VectorL root = p.cwiseSqrt();
  const test::MatrixL scaled = root.cwiseInverse().asDiagonal() * h;
  return root.cwiseInverse().asDiagonal() * test::without(scaled, root.cwiseProduct(d));
}

}  // namespace

TEST_CASE_TEMPLATE("metric: the nearest step in it, against long double, condition up to 1e12", T, float, double) {
  for (const double digits : {0.0, 2.0, 4.0, 8.0, 12.0}) {
    for (const Granularity granularity : {Granularity::block, Granularity::group, Granularity::global}) {
      for (const double scale : {1.0, 1e-8}) {
        CAPTURE(digits);
        CAPTURE(static_cast<int>(granularity));
        CAPTURE(scale);
        Random random(static_cast<std::uint64_t>(digits) + 7);
        const std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
        Projector<T> projector(blocks, {.granularity = granularity});
        test::refresh(projector, h);
        const auto p = metric<T>(random, std::pow(10.0, digits), scale);
        Tensors<T> d(blocks, random);
        const Tensors<T> before = d;
        const Report report = projector.project_steps(d.views(), p.const_views(), 4);
        CHECK(report.entries.size() == projector.groups().size());
        for (const auto& group : projector.groups()) {
          if (group == std::vector<std::size_t>{2}) continue;
          const test::MatrixL q = test::columns({h[0].flat(group), h[1].flat(group)});
          const test::VectorL expected = nearest_in_metric(q, p.flat(group), before.flat(group));
          const double size =
              std::max(static_cast<double>(before.flat(group).norm()), static_cast<double>(expected.norm()));
          for (Index r = 0; r < 2; ++r) {
            const Real left = q.col(r).dot(d.flat(group)) / q.col(r).norm();
            CHECK(std::abs(static_cast<double>(left)) <= 32 * test::roundoff<T> * size);
          }
          // Nearest in the metric, as far as the rounding of Q reaches.
          const double tolerance = 1e3 * std::pow(10.0, digits / 2) * test::roundoff<T>;
          CHECK(static_cast<double>((d.flat(group) - expected).norm()) <= tolerance * size);
        }
        // The structured block is projected as without a metric.
        Tensors<T> euclidean = before;
        projector.project_steps(euclidean.views());
        CHECK(d[2] == euclidean[2]);
      }
    }
  }
}

TEST_CASE_TEMPLATE("metric: a constant one is the Euclidean projection, whatever its size and type", S, float, double,
                   bfloat16, float16) {
  Random random(1);
  const std::vector<Tensors<double>> h = {Tensors<double>(blocks, random), Tensors<double>(blocks, random)};
  for (const double value : {1.0, 1e-4, 1e4}) {
    for (const double alpha : {1.0, 0.35}) {
      CAPTURE(value);
      CAPTURE(alpha);
      Projector<double> projector(blocks, {.projection = {.alpha = alpha}});
      test::refresh(projector, h);
      const auto p = metric<S>(random, 1.0, value);
      Tensors<double> d(blocks, random), euclidean = d;
      const auto report = projector.project_steps(d.views(), p.const_views());
      const auto expected = projector.project_steps(euclidean.views());
      CHECK((d.flat() - euclidean.flat()).norm() <= 1e-13 * euclidean.flat().norm());
      CHECK(report.total().norm_after == doctest::Approx(expected.total().norm_after));
      CHECK(report.total().norm_inside == doctest::Approx(expected.total().norm_inside));
    }
  }
}

TEST_CASE("metric: one that float cannot divide by is an error or exact, never a silent NaN") {
  Random random(2);
  const std::vector<Tensors<float>> h = {Tensors<float>(blocks, random)};
  Projector<float> projector(blocks);
  test::refresh(projector, h);
  for (const double value : {1e-300, 1e-60, 1e-40, 1e40, 1e300}) {
    CAPTURE(value);
    const auto p = metric<double>(random, 1.0, value);
    Tensors<float> d(blocks, random);
    const Tensors<float> before = d;
    try {
      projector.project_steps(d.views(), p.const_views());
      for (const std::size_t i : {0, 1, 3}) {
        const Real left = h[0].flat(i).dot(d.flat(i)) / h[0].flat(i).norm();
        CHECK(std::abs(static_cast<double>(left)) <=
              32 * test::roundoff<float> * static_cast<double>(before.flat(i).norm()));
      }
    } catch (const Error&) {
      CHECK(d == before);
    }
  }
}

TEST_CASE_TEMPLATE("metric: blocks left out, of a group too", T, float, double) {
  Random random(3);
  const std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
  Projector<T> projector(blocks, {.granularity = Granularity::global});
  test::refresh(projector, h);
  const auto p = metric<T>(random, 100);
  for (const std::vector<std::size_t>& left_out : {std::vector<std::size_t>{1}, {0, 3}, {2}}) {
    CAPTURE(left_out.size());
    std::vector<std::size_t> given;
    for (const std::size_t i : {0, 1, 3}) {
      if (std::find(left_out.begin(), left_out.end(), i) == left_out.end()) given.push_back(i);
    }
    Tensors<T> d(blocks, random);
    const Tensors<T> before = d;
    projector.project_steps(d.views(left_out), p.const_views(left_out));
    for (const std::size_t i : left_out) CHECK(d[i] == before[i]);
    const test::MatrixL part = test::columns({h[0].flat(given), h[1].flat(given)});
    const test::VectorL expected = nearest_in_metric(part, p.flat(given), before.flat(given));
    CHECK((d.flat(given) - expected).norm() <= 1e4 * test::roundoff<T> * before.flat(given).norm());
  }
}

TEST_CASE_TEMPLATE("metric: weights before and after an Adam-like step", T, float, double) {
  Random random(4);
  const std::vector<Tensors<T>> h = {Tensors<T>(blocks, random), Tensors<T>(blocks, random)};
  Projector<T> projector(blocks);
  test::refresh(projector, h);
  const auto p = metric<T>(random, 1e4);
  const Tensors<T> before(blocks);  // zero weights: the step is stored exactly
  Tensors<T> after(blocks, random);
  const Tensors<T> step = after;
  projector.project_weights(before.const_views(), after.views(), p.const_views(), 3);
  for (const std::size_t i : {0, 1, 3}) {
    const test::MatrixL part = test::columns({h[0].flat(i), h[1].flat(i)});
    const test::VectorL expected = nearest_in_metric(part, p.flat(i), step.flat(i));
    CHECK((after.flat(i) - expected).norm() <= 1e5 * test::roundoff<T> * step.flat(i).norm());
  }
}

}  // namespace test_metric
