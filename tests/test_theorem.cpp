#include <doctest/doctest.h>

#include <array>
#include <functional>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "tensors.hpp"

// What the method promises: along the projected step of size eta the reference loss moves as eta^2, along the raw one
// as eta. On a network with one hidden layer, y = W2 tanh(W1 x + b), in long double; gradients by hand.

using namespace ogpsa;
using test::MatrixL;
using test::Random;
using test::Real;
using test::Tensors;

namespace test_theorem {
namespace {

constexpr Index inputs = 5, hidden = 7, outputs = 3;

const std::vector<BlockSpec> blocks = {{.name = "w1", .rows = hidden, .cols = inputs},
                                       {.name = "b", .cols = hidden},
                                       {.name = "w2", .rows = outputs, .cols = hidden}};

using Weights = std::array<MatrixL, 3>;

Weights random_weights(Random& random) {
  return {test::exact(random.gaussian(hidden, inputs)), test::exact(random.gaussian(hidden, 1)),
          test::exact(random.gaussian(outputs, hidden))};
}

/// Mean squared error over some rows.
struct Task {
  MatrixL x, y;  // a column for each row of data

  Task(Random& random, Index rows)
      : x(test::exact(random.gaussian(inputs, rows))), y(test::exact(random.gaussian(outputs, rows))) {}

  Real loss(const Weights& w, Weights* gradient = nullptr) const {
    const MatrixL h = ((w[0] * x).colwise() + w[1].col(0)).unaryExpr([](Real z) { return std::tanh(z); });
    const MatrixL error = w[2] * h - y;
    const Real rows = static_cast<Real>(x.cols());
    if (gradient) {
      const MatrixL d = 2 / rows * error;
      const MatrixL back = (w[2].transpose() * d).cwiseProduct(MatrixL::Ones(h.rows(), h.cols()) - h.cwiseProduct(h));
      *gradient = {back * x.transpose(), back.rowwise().sum(), d * h.transpose()};
    }
    return error.squaredNorm() / rows;
  }
};

/// Rounded to double, as the tensors of the blocks.
Tensors<double> tensors(const Weights& w) {
  Tensors<double> result(blocks);
  for (std::size_t i = 0; i < 3; ++i) {
    const MatrixL rows = w[i].cols() == 1 ? MatrixL(w[i].transpose()) : w[i];
    for (Index r = 0, at = 0; r < rows.rows(); ++r) {
      for (Index c = 0; c < rows.cols(); ++c)
        result[i][static_cast<std::size_t>(at++)] = static_cast<double>(rows(r, c));
    }
  }
  return result;
}

Weights moved(const Weights& w, const Tensors<double>& d, Real eta) {
  return {w[0] + eta * d.matrix(0), w[1] + eta * d.matrix(1).transpose(), w[2] + eta * d.matrix(2)};
}

/// The order p in |loss(w + eta d) - loss(w)| ~ eta^p, from two sizes of step.
Real order(const Task& task, const Weights& w, const Tensors<double>& d) {
  const Real start = task.loss(w), eta = 1e-4L;
  const Real large = std::abs(task.loss(moved(w, d, eta)) - start);
  const Real small = std::abs(task.loss(moved(w, d, eta / 10)) - start);
  return std::log10(large / small);
}

/// The step that Adam with weight decay takes after a few earlier gradients.
Tensors<double> adam_step(const std::vector<Tensors<double>>& gradients, const Tensors<double>& weights) {
  Tensors<double> step(blocks);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < step[i].size(); ++j) {
      double m = 0, v = 0, decay1 = 1, decay2 = 1;
      for (const auto& g : gradients) {
        m = 0.9 * m + 0.1 * g[i][j];
        v = 0.999 * v + 0.001 * g[i][j] * g[i][j];
        decay1 *= 0.9;
        decay2 *= 0.999;
      }
      step[i][j] = -(m / (1 - decay1)) / (std::sqrt(v / (1 - decay2)) + 1e-8) - 0.1 * weights[i][j];
    }
  }
  return step;
}

}  // namespace

TEST_CASE("theorem: the gradients by hand are those of finite differences") {
  Random random(1);
  const Weights w = random_weights(random);
  const Task task(random, 12);
  Weights gradient;
  task.loss(w, &gradient);
  for (std::size_t i = 0; i < 3; ++i) {
    for (Index j = 0; j < w[i].size(); ++j) {
      Weights up = w, down = w;
      up[i](j) += 1e-6L;
      down[i](j) -= 1e-6L;
      CHECK(std::abs((task.loss(up) - task.loss(down)) / 2e-6L - gradient[i](j)) <= 1e-9L);
    }
  }
}

TEST_CASE("theorem: reference losses move as eta^2 along the projected gradient, as eta along the raw one") {
  for (const Granularity granularity : {Granularity::block, Granularity::global}) {
    for (const std::uint64_t seed : {1, 2, 3}) {
      CAPTURE(seed);
      CAPTURE(static_cast<int>(granularity));
      Random random(seed);
      const Weights w = random_weights(random);
      const std::vector<Task> references = {Task(random, 20), Task(random, 15), Task(random, 9)};
      const Task safety(random, 11);
      std::vector<Tensors<double>> h;
      Weights gradient;
      for (const auto& task : references) {
        task.loss(w, &gradient);
        h.push_back(tensors(gradient));
      }
      Projector<double> projector(blocks, {.granularity = granularity});
      test::refresh(projector, h);
      safety.loss(w, &gradient);
      const Tensors<double> raw = tensors(gradient);
      Tensors<double> projected = raw;
      projector.project_gradients(projected.views());
      for (const auto& task : references) {
        CHECK(static_cast<double>(order(task, w, raw)) == doctest::Approx(1).epsilon(0.02));
        CHECK(static_cast<double>(order(task, w, projected)) == doctest::Approx(2).epsilon(0.02));
      }
      // And it is still a descent direction for the safety loss.
      CHECK(safety.loss(moved(w, projected, -1e-3L)) < safety.loss(w));
    }
  }
}

TEST_CASE("theorem: through Adam the rule holds for the projected step, not for the projected gradient") {
  Random random(4);
  const Weights w = random_weights(random);
  const std::vector<Task> references = {Task(random, 20), Task(random, 15)};
  std::vector<Tensors<double>> h, raw, projected;
  Weights gradient;
  for (const auto& task : references) {
    task.loss(w, &gradient);
    h.push_back(tensors(gradient));
  }
  Projector<double> projector(blocks);
  test::refresh(projector, h);
  for (int i = 0; i < 4; ++i) {  // momentum from earlier batches
    Task(random, 6).loss(w, &gradient);
    raw.push_back(tensors(gradient));
    projected.push_back(raw.back());
    projector.project_gradients(projected.back().views());
  }
  const Tensors<double> weights = tensors(w);
  const Tensors<double> published = adam_step(projected, weights), step = adam_step(raw, weights);
  Tensors<double> exact = step, in_metric = step, metric(blocks);
  projector.project_steps(exact.views());
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < metric[i].size(); ++j) metric[i][j] = std::abs(raw.back()[i][j]) + 1e-8;
  }
  projector.project_steps(in_metric.views(), metric.const_views());
  Tensors<double> after = weights;
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < after[i].size(); ++j) after[i][j] += 1e-4 * step[i][j];
  }
  projector.project_weights(weights.const_views(), after.views());
  for (std::size_t r = 0; r < 2; ++r) {
    const Task& task = references[r];
    CHECK(static_cast<double>(order(task, w, published)) == doctest::Approx(1).epsilon(0.05));
    CHECK(static_cast<double>(order(task, w, exact)) == doctest::Approx(2).epsilon(0.02));
    CHECK(static_cast<double>(order(task, w, in_metric)) == doctest::Approx(2).epsilon(0.02));
    // The step really taken, read from the weights: what is left of it along h_r is the rounding of the weights.
    const Real left = h[r].flat().dot(after.flat() - weights.flat());
    CHECK(std::abs(left) <= 64 * test::roundoff<double> * h[r].flat().norm() * weights.flat().norm());
  }
}

TEST_CASE("theorem: one-sided, a reference loss may fall but does not rise to first order") {
  int falls = 0;
  for (const std::uint64_t seed : {11, 12, 13, 14, 15, 16}) {
    CAPTURE(seed);
    Random random(seed);
    const Weights w = random_weights(random);
    const std::vector<Task> references = {Task(random, 20), Task(random, 15), Task(random, 9)};
    std::vector<Tensors<double>> h;
    Weights gradient;
    for (const auto& task : references) {
      task.loss(w, &gradient);
      h.push_back(tensors(gradient));
    }
    Projector<double> projector(blocks, {.projection = {.mode = ProjectionMode::one_sided}});
    test::refresh(projector, h);
    Tensors<double> step(blocks, random);
    projector.project_steps(step.views());
    for (const auto& task : references) {
      const Real eta = 1e-6L;
      const Real change = (task.loss(moved(w, step, eta)) - task.loss(w)) / eta;
      CHECK(change <= 1e-4L);  // second order: eta times the curvature
      falls += change < -1e-2L;
    }
  }
  CHECK(falls > 0);
}

TEST_CASE_TEMPLATE("theorem: on the input side a step of any size leaves W x as it was, for x in span(M)", T, float,
                   double) {
  Random random(5);
  const Index rows = 20, cols = 33;
  const std::vector<BlockSpec> one = {{.name = "w", .rows = rows, .cols = cols, .form = Form::input}};
  Projector<T> projector(one, {.reference = {.structured = {.rank = {.max_rank = 6}, .source = MomentSource::inputs}}});
  // Reference inputs of a layer that lie in 6 dimensions.
  const Eigen::MatrixXd space = random.orthonormal(cols, 6);
  Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> x =
      (random.gaussian(50, 6) * space.transpose()).template cast<T>();
  auto collector = projector.begin_refresh();
  collector.add_inputs("w", view(x));
  projector.finish_refresh(std::move(collector), 0);
  const MatrixL m = test::exact(projector.subspace("w", Side::input).basis());
  REQUIRE(m.cols() == 6);
  for (const double size : {1e-3, 1.0, 1e3, 1e6}) {
    CAPTURE(size);
    Tensors<T> w(one, random), d(one, random, size);
    const Tensors<T> raw = d;
    projector.project_steps(d.views());
    // In span(M) exactly, and the reference inputs themselves, which lie in it to rounding.
    const MatrixL inside = m * test::exact(random.gaussian(6, 10));
    CHECK((d.matrix(0) * inside).norm() <= 32 * test::roundoff<T> * raw.matrix(0).norm() * inside.norm());
    const MatrixL change = d.matrix(0) * test::exact(x).transpose();
    CHECK(change.norm() <= 1e3 * test::roundoff<T> * raw.matrix(0).norm() * test::exact(x).norm());
    CHECK((raw.matrix(0) * inside).norm() >=
          0.1 * raw.matrix(0).norm() * inside.norm() / std::sqrt(33.0));  // the raw step does not
    // Other inputs may change as before.
    MatrixL outside = test::exact(random.gaussian(cols, 10));
    outside -= m * (m.transpose() * outside);
    CHECK((d.matrix(0) * outside - raw.matrix(0) * outside).norm() <=
          64 * test::roundoff<T> * raw.matrix(0).norm() * outside.norm());
  }
}

}  // namespace test_theorem
