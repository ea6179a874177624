#include <doctest/doctest.h>

#include <numbers>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_projection {
namespace {

template <class T, class S>
struct Types {
  using Arithmetic = T;
  using Storage = S;
};

template <class S>
constexpr double storage_roundoff() {
  if (std::is_same_v<S, bfloat16>) return 0x1p-8;
  if (std::is_same_v<S, float16>) return 0x1p-11;
  return std::is_same_v<S, float> ? 0x1p-24 : 0x1p-53;
}

template <class S>
std::vector<S> stored(const Eigen::VectorXd& v) {
  std::vector<S> result(static_cast<std::size_t>(v.size()));
  for (Index i = 0; i < v.size(); ++i) result[static_cast<std::size_t>(i)] = static_cast<S>(v(i));
  return result;
}
template <class S>
test::VectorL exact(const std::vector<S>& v) {
  test::VectorL result(static_cast<Index>(v.size()));
  for (std::size_t i = 0; i < v.size(); ++i) {
    if constexpr (sizeof(S) == 2) result(static_cast<Index>(i)) = static_cast<Real>(static_cast<float>(v[i]));
    if constexpr (sizeof(S) != 2) result(static_cast<Index>(i)) = static_cast<Real>(v[i]);
  }
  return result;
}

/// Bound of the contract on every element of the result: the final rounding to the storage type, and on the vector:
/// 32 u |g| of the arithmetic type.
template <class T, class S>
void check_result(const std::vector<S>& found, const test::VectorL& expected, Real norm) {
  const Real rounding = 2 * static_cast<Real>(storage_roundoff<S>());
  const Real tiny = static_cast<Real>(static_cast<float>(std::numeric_limits<S>::denorm_min()));
  const test::VectorL error = (exact(found) - expected).cwiseAbs();
  const test::VectorL rounded = rounding * expected.cwiseAbs() + test::VectorL::Constant(expected.size(), tiny);
  const Real excess = (error - rounded).cwiseMax(Real(0)).norm();
  CHECK(static_cast<double>(excess) <= 32 * test::roundoff<T> * static_cast<double>(norm));
}

}  // namespace

TEST_CASE_TEMPLATE("project: every mode, storage type and arithmetic type against long double", P, Types<float, float>,
                   Types<float, double>, Types<float, bfloat16>, Types<float, float16>, Types<double, float>,
                   Types<double, double>, Types<double, bfloat16>, Types<double, float16>) {
  using T = typename P::Arithmetic;
  using S = typename P::Storage;
  for (int round = 0; round < 60; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index n = round % 5 == 0 ? random.integer(1, 4) : random.integer(1, round % 7 == 0 ? 9000 : 300);
    const Index m = random.integer(1, 5);
    CAPTURE(round);
    CAPTURE(n);
    CAPTURE(m);
    const test::Matrix<T> h = random.gaussian<T>(n, m);
    const auto subspace = estimate(h);
    const test::MatrixL q = test::exact(subspace.basis());
    Eigen::VectorXd gradient = random.gaussian(n, 1);
    if (round % 3 == 0) gradient += h.template cast<double>() * random.gaussian(m, 1);  // much of it inside
    const std::vector<S> before = stored<S>(gradient);
    const test::VectorL g = exact(before);
    const auto run = [&](const ProjectionOptions& options, Direction direction = Direction::gradient) {
      auto copy = before;
      const auto r = project(TensorView(std::span<S>(copy)), subspace, options, direction, "g");
      CHECK(r.norm_before == doctest::Approx(static_cast<double>(g.norm())).epsilon(1e-6));
      CHECK(std::abs(r.norm_after - static_cast<double>(exact(copy).norm())) <=
            (16 * test::roundoff<T> + 2 * storage_roundoff<S>()) * r.norm_before);
      CHECK(std::abs(r.norm_inside - static_cast<double>((q.transpose() * g).norm())) <=
            16 * test::roundoff<T> * r.norm_before);
      for (Index j = 0; j < m; ++j) {
        const Real along = test::exact(h).col(j).dot(g) / test::exact(h).col(j).norm();
        CHECK(std::abs(r.objective_coefficients(j) - static_cast<double>(along)) <=
              64 * test::roundoff<T> * r.norm_before);
      }
      return copy;
    };
    const test::VectorL inside = q * (q.transpose() * g);
    check_result<T>(run({}), g - inside, g.norm());
    check_result<T>(run({.alpha = 0.3}), g - Real(0.3) * inside, g.norm());
    check_result<T>(run({.mode = ProjectionMode::inside}), inside, g.norm());
    check_result<T>(run({.alpha = 0.0}), g, g.norm());
    // The cone of the objectives, seen from the gradient and from the step.
    const test::VectorL cone = test::nearest_in_cone(test::exact(h), g);
    check_result<T>(run({.mode = ProjectionMode::one_sided}), cone, g.norm());
    check_result<T>(run({.mode = ProjectionMode::one_sided, .alpha = 0.6}), g + Real(0.6) * (cone - g), g.norm());
    const test::VectorL step_cone = -test::nearest_in_cone(test::exact(h), -g);
    check_result<T>(run({.mode = ProjectionMode::one_sided}, Direction::step), step_cone, g.norm());
  }
}

TEST_CASE_TEMPLATE("project: contract |Q^T g'| <= 32 u |g|, also where rounding errors do not average out", T, float,
                   double) {
  for (int round = 0; round < 300; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index k = random.integer(1, round % 20 == 0 ? 64 : 4);
    const Index n = random.integer(k, round % 10 == 1 && !test::small_sizes ? 100000 : 3000);
    CAPTURE(round);
    CAPTURE(n);
    CAPTURE(k);
    // Constant or slowly varying columns and gradients: then all roundings in a sum go the same way.
    test::Matrix<T> h = random.gaussian<T>(n, k);
    if (round % 2 == 0) h.col(0).setConstant(static_cast<T>(1 + random.uniform()));
    if (round % 4 == 0 && k > 1) h.col(1) = h.col(0) + T(1e-3) * h.col(1);
    const auto subspace = estimate(h);
    test::Vector<T> g = random.gaussian<T>(n, 1);
    if (round % 2 == 0) g = test::Vector<T>::Constant(n, static_cast<T>(1 + random.uniform()));
    if (round % 3 == 0) g = h * random.gaussian<T>(k, 1);
    const Real norm = test::exact(g).norm();
    const auto result = project(g, subspace);
    const test::MatrixL q = test::exact(subspace.basis());
    CHECK(static_cast<double>((q.transpose() * test::exact(g)).norm()) <=
          32 * test::roundoff<T> * static_cast<double>(norm));
    CHECK(result.norm_after <= result.norm_before * (1 + 1e-6));
  }
}

TEST_CASE_TEMPLATE("project: contract for constant columns, where every rounding goes the same way", T, float, double) {
  for (const Index n : {100, 500, 2047, 2048, 4096, 20000}) {
    const auto subspace = estimate(test::Matrix<T>(test::Matrix<T>::Ones(n, 1)));
    const test::MatrixL q = test::exact(subspace.basis());
    CAPTURE(n);
    double worst = 0;
    for (int round = 0; round < 100; ++round) {
      Random random(static_cast<std::uint64_t>(round));
      test::Vector<T> g = test::Vector<T>::Constant(n, static_cast<T>(1 + random.uniform()));
      const Real norm = test::exact(g).norm();
      project(g, subspace);
      worst = std::max(worst, static_cast<double>((q.transpose() * test::exact(g)).norm() / norm));
    }
    CHECK(worst <= 32 * test::roundoff<T>);
  }
}

TEST_CASE_TEMPLATE("project: the authors' rule for one and two objectives in exact arithmetic", T, float, double) {
  for (int round = 0; round < 40; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 300);
    const Index n = random.integer(2, 400);
    for (const Index k : {1, 2}) {
      CAPTURE(round);
      CAPTURE(k);
      const test::Matrix<T> h = random.gaussian<T>(n, k) * T(1e-3);
      test::Vector<T> g = random.gaussian<T>(n, 1);
      // Each h_r normalised per tensor, then one after the other: remove the component along h_1, and along what of
      // h_2 is orthogonal to h_1 (method.md, 2, without the eps that leaves a part in).
      test::VectorL expected = test::exact(g);
      test::MatrixL unit = test::exact(h);
      for (Index r = 0; r < k; ++r) {
        unit.col(r) /= unit.col(r).norm();
        if (r == 1) unit.col(1) -= unit.col(0).dot(unit.col(1)) * unit.col(0);
        expected -= unit.col(r).dot(expected) / unit.col(r).squaredNorm() * unit.col(r);
      }
      const Real norm = test::exact(g).norm();
      // The subspace itself is known to u times the condition of the normalised columns.
      const auto s = test::exact_svd(test::exact(h)).s;
      const double condition = static_cast<double>(s(0) / s(k - 1));
      project(g, estimate(h, {}, {.normalize_columns = true}));
      CHECK(static_cast<double>((test::exact(g) - expected).norm()) <=
            32 * condition * test::roundoff<T> * static_cast<double>(norm));
      const Real left = (test::exact(h).transpose() * test::exact(g)).norm() / (test::exact(h).norm() * norm);
      CHECK(static_cast<double>(left) <= 32 * test::roundoff<T>);
    }
  }
}

TEST_CASE_TEMPLATE("project: conflicting is the published threshold mode", T, float, double) {
  Random random(8);
  const test::Matrix<T> h = random.gaussian<T>(50, 1);
  const auto subspace = estimate(h);
  const Real square = test::exact(h).squaredNorm();
  for (int round = 0; round < 20; ++round) {
    CAPTURE(round);
    const test::Vector<T> g = random.gaussian<T>(50, 1);
    const Real product = (test::exact(h).transpose() * test::exact(g))(0);
    for (const Direction direction : {Direction::gradient, Direction::step}) {
      const bool conflict = direction == Direction::gradient ? product < 0 : product > 0;
      const test::VectorL gone = test::exact(h) * (product / square);
      auto hard = g, soft = g;
      project(view(hard), subspace, {.mode = ProjectionMode::conflicting, .scale = 0.5}, direction);
      project(view(soft), subspace, {.mode = ProjectionMode::conflicting, .alpha = 0.25}, direction);
      const test::VectorL expected =
          conflict ? test::VectorL(test::exact(g) - gone) : test::VectorL(test::exact(g) / 2);
      const test::VectorL softly = conflict ? test::VectorL(test::exact(g) - gone / 4) : test::exact(g);
      CHECK((test::exact(hard) - expected).norm() <= 32 * test::roundoff<T> * test::exact(g).norm());
      CHECK((test::exact(soft) - softly).norm() <= 32 * test::roundoff<T> * test::exact(g).norm());
    }
  }
  // Orthogonal to the objective: neither.
  test::Vector<T> g = test::Vector<T>::Zero(50);
  g(0) = h(1);
  g(1) = -h(0);
  const auto before = g;
  project(view(g), estimate(test::Matrix<T>(test::Vector<T>::Unit(50, 7))),
          {.mode = ProjectionMode::conflicting, .scale = 3});
  CHECK(g == before);
}

TEST_CASE_TEMPLATE("project: objectives of any scale keep their sign", T, float, double) {
  const double extreme = std::is_same_v<T, float> ? 1e30 : 1e200;
  Random random(12);
  for (const double scale : {1.0, extreme, 1 / extreme, std::is_same_v<T, float> ? 1e-38 : 1e-305}) {
    CAPTURE(scale);
    const test::Matrix<T> h = (random.gaussian(30, 1) * scale).template cast<T>();
    const auto subspace = estimate(h);
    test::Vector<T> g = (h.template cast<double>() * (-1 / scale) + random.gaussian(30, 1)).template cast<T>();
    const test::VectorL unit = test::exact(h) / test::exact(h).norm();
    const test::VectorL expected = test::exact(g) - unit * unit.dot(test::exact(g));
    for (const auto mode : {ProjectionMode::conflicting, ProjectionMode::one_sided}) {
      auto copy = g;
      const auto result = project(view(copy), subspace, {.mode = mode});
      CHECK((test::exact(copy) - expected).norm() <= 32 * test::roundoff<T> * test::exact(g).norm());
      CHECK(result.objective_coefficients(0) ==
            doctest::Approx(static_cast<double>(unit.dot(test::exact(g)))).epsilon(1e-5));
    }
  }
}

TEST_CASE_TEMPLATE("project: an objective that a truncated basis does not hold has no sign in it", T, float, double) {
  for (int round = 0; round < 40; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 900);
    CAPTURE(round);
    // Two orthogonal objectives, of which the basis keeps the longer. What it holds of the other is rounding.
    test::Matrix<T> h = random.orthonormal(60, 2).template cast<T>();
    h.col(0) *= T(100);
    const auto subspace = estimate(h, {.max_rank = 1});
    REQUIRE(subspace.rank() == 1);
    test::Vector<T> g = random.gaussian<T>(60, 1);
    const Real along = test::exact(h).col(0).dot(test::exact(g).col(0)) / test::exact(h).col(0).squaredNorm();
    const test::VectorL expected = along < 0 ? test::exact(g) - along * test::exact(h).col(0) : test::exact(g);
    const Real norm = test::exact(g).norm();
    project(g, subspace, {.mode = ProjectionMode::one_sided});
    CHECK((test::exact(g) - expected).norm() <= 32 * test::roundoff<T> * norm);
  }
}

TEST_CASE_TEMPLATE("project: gradients of any scale", T, float, double) {
  Random random(13);
  const test::Matrix<T> h = random.gaussian<T>(64, 3);
  const auto subspace = estimate(h);
  const test::Vector<T> base = random.gaussian<T>(64, 1);
  const bool single = std::is_same_v<T, float>;
  for (const double scale : {single ? 1e36 : 1e300, single ? 1e30 : 1e200, single ? 1e20 : 1e140,
                             single ? 1e-30 : 1e-200, single ? 1e-36 : 1e-300}) {
    CAPTURE(scale);
    test::Vector<T> g(64);
    for (Index i = 0; i < 64; ++i) g(i) = static_cast<T>(static_cast<double>(base(i)) * scale);
    const test::VectorL before = test::exact(g);
    const test::MatrixL q = test::exact(subspace.basis());
    for (const auto mode : {ProjectionMode::orthogonal, ProjectionMode::one_sided, ProjectionMode::inside}) {
      CAPTURE(static_cast<int>(mode));
      auto copy = g;
      const auto r = project(view(copy), subspace, {.mode = mode});
      test::VectorL expected = q * (q.transpose() * before);
      if (mode == ProjectionMode::orthogonal) expected = before - expected;
      if (mode == ProjectionMode::one_sided) expected = test::nearest_in_cone(test::exact(h), before);
      CHECK(copy.allFinite());
      CHECK((test::exact(copy) - expected).norm() <= 32 * test::roundoff<T> * before.norm());
      // What is reported is right too, where squares are in the range of double.
      CHECK_FALSE(std::isnan(r.norm_before));
      CHECK_FALSE(std::isnan(r.fraction_removed()));
      CHECK_FALSE(std::isnan(r.angle()));
      if (scale > 1e150 || scale < 1e-150) continue;
      CHECK(r.norm_before == doctest::Approx(static_cast<double>(before.norm())).epsilon(1e-6));
      CHECK(r.norm_after == doctest::Approx(static_cast<double>(expected.norm())).epsilon(1e-5));
      CHECK(r.norm_inside == doctest::Approx(static_cast<double>((q.transpose() * before).norm())).epsilon(1e-5));
    }
  }
}

TEST_CASE("project: a double gradient that float arithmetic cannot hold is an error, not a silent NaN") {
  Random random(14);
  const auto subspace = estimate(Eigen::MatrixXf(random.gaussian<float>(32, 2)));
  for (const double scale : {1e39, 1e200, 3.4e38}) {
    CAPTURE(scale);
    Eigen::VectorXd g = Eigen::VectorXd::Constant(32, scale);
    const Eigen::VectorXd before = g;
    try {
      project(view(g), subspace);
      CHECK(g.allFinite());
      const test::MatrixL q = test::exact(subspace.basis());
      CHECK((q.transpose() * test::exact(g)).norm() <= 32 * test::roundoff<float> * test::exact(before).norm());
    } catch (const Error&) {
      CHECK(g == before);
    }
  }
}

TEST_CASE_TEMPLATE("project: tiny gradients in half precision", S, bfloat16, float16) {
  Random random(15);
  const auto subspace = estimate(Eigen::MatrixXf(random.gaussian<float>(500, 2)));
  const test::MatrixL q = test::exact(subspace.basis());
  const double smallest = static_cast<double>(static_cast<float>(std::numeric_limits<S>::min()));
  for (const double scale : {smallest * 1000, smallest, smallest / 16}) {
    CAPTURE(scale);
    const std::vector<S> before = stored<S>(random.gaussian(500, 1) * scale);
    auto g = before;
    const auto r = project(std::span<S>(g), subspace);
    check_result<float>(g, exact(before) - q * (q.transpose() * exact(before)), exact(before).norm());
    CHECK(r.norm_before == doctest::Approx(static_cast<double>(exact(before).norm())).epsilon(1e-5));
  }
}

TEST_CASE_TEMPLATE("project: the zero subspace, empty gradients and zero gradients", T, float, double) {
  Random random(16);
  const test::Vector<T> g = random.gaussian<T>(20, 1);
  const Subspace<T> zero(20);
  auto copy = g;
  auto r = project(copy, zero);
  CHECK(copy == g);
  CHECK(r.norm_before == r.norm_after);
  CHECK(r.norm_inside == 0);
  CHECK(r.angle() == doctest::Approx(std::numbers::pi / 2));
  CHECK(r.fraction_removed() == 0);
  r = project(copy, zero, {.mode = ProjectionMode::inside});
  CHECK(copy == test::Vector<T>::Zero(20));
  CHECK(r.fraction_removed() == 1);
  CHECK_THROWS_AS(project(copy, zero, {.mode = ProjectionMode::one_sided}), InvalidArgument);

  // Objectives that are zero or repeated constrain nothing, or nothing more.
  test::Matrix<T> h(20, 3);
  h << test::Vector<T>::Zero(20), g, g;
  copy = -g;
  project(copy, estimate(h), {.mode = ProjectionMode::one_sided});
  CHECK(static_cast<double>(copy.norm()) <= 32 * test::roundoff<T> * static_cast<double>(g.norm()));
  copy = g;
  project(copy, estimate(h), {.mode = ProjectionMode::one_sided});
  CHECK(copy == g);
  copy = g;
  const auto none = estimate(test::Matrix<T>(test::Matrix<T>::Zero(20, 2)));
  project(copy, none, {.mode = ProjectionMode::one_sided});
  CHECK(copy == g);

  Eigen::Matrix<T, Eigen::Dynamic, 1> empty(0);
  r = project(empty, Subspace<T>(0));
  CHECK(r.norm_before == 0);
  copy.setZero();
  r = project(copy, estimate(h));
  CHECK((r.norm_before == 0 && r.norm_after == 0 && r.fraction_removed() == 0));
  CHECK(copy == test::Vector<T>::Zero(20));
}

TEST_CASE("project: what is reported for a gradient at a known angle") {
  Eigen::MatrixXd h = Eigen::MatrixXd::Zero(10, 2);
  h(0, 0) = 2;
  h(1, 1) = 5;
  Eigen::VectorXd g = Eigen::VectorXd::Zero(10);
  g(0) = 3;
  g(1) = -4;
  g(5) = 5;
  const auto r = project(g, estimate(h));
  CHECK(r.norm_before == doctest::Approx(std::sqrt(50.0)));
  CHECK(r.norm_inside == doctest::Approx(5));
  CHECK(r.norm_after == doctest::Approx(5));
  CHECK(r.fraction_removed() == doctest::Approx(0.5));
  CHECK(r.angle() == doctest::Approx(std::numbers::pi / 4));
  CHECK(r.objective_coefficients(0) == doctest::Approx(3));
  CHECK(r.objective_coefficients(1) == doctest::Approx(-4));
}

TEST_CASE("project: the result does not depend on where in memory the gradient lies") {
  Random random(17);
  const auto subspace = estimate(Eigen::MatrixXf(random.gaussian<float>(5001, 3)));
  const Eigen::VectorXf g = random.gaussian<float>(5001, 1);
  Eigen::VectorXf expected = g;
  project(expected, subspace);
  for (Index offset = 0; offset < 17; ++offset) {
    Eigen::VectorXf memory(5001 + 17);
    memory.segment(offset, 5001) = g;
    project(std::span<float>(memory.data() + offset, 5001), subspace);
    CHECK(memory.segment(offset, 5001) == expected);
  }
}

}  // namespace test_projection
