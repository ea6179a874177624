#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/nonnegative_least_squares.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_nonnegative_least_squares {
namespace {

/// Optimality (Karush, Kuhn and Tucker): x >= 0; no column can still pull the residual down; none in use is off.
void check_optimal(const Eigen::MatrixXd& a, const Eigen::VectorXd& b) {
  const auto [x, fitted] = nonnegative_least_squares(a, b);
  REQUIRE(x.size() == a.cols());
  REQUIRE(x.allFinite());
  const test::VectorL rest = test::exact(b) - test::exact(fitted);
  const Real scale = test::exact(b).norm();
  for (Index j = 0; j < a.cols(); ++j) {
    CAPTURE(j);
    CHECK(x(j) >= 0);
    const test::VectorL column = test::exact(a).col(j);
    const Real norm = column.norm();
    if (norm == 0) continue;
    const Real pull = column.dot(rest) / norm;
    CHECK(pull <= 32 * test::roundoff<double> * scale);
    if (x(j) > 0) CHECK(std::abs(pull) <= 64 * test::roundoff<double> * scale);
  }
}

}  // namespace

TEST_CASE("non-negative least squares: optimal, and the nearest point is that of brute force") {
  for (int round = 0; round < 400; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index rows = random.integer(1, 9), count = random.integer(1, 6);
    CAPTURE(round);
    Eigen::MatrixXd a = random.gaussian(rows, count);
    for (Index j = 1; j < count; ++j) {
      const Index kind = random.integer(0, 7), other = random.integer(0, j - 1);
      if (kind == 0) a.col(j) = a.col(other);
      if (kind == 1) a.col(j) = -a.col(other);
      if (kind == 2) a.col(j).setZero();
      if (kind == 3) a.col(j) *= 1e9;
      if (kind == 4) a.col(j) *= 1e-9;
      if (kind == 5) a.col(j) = a.col(other) + a.col(random.integer(0, j - 1));
    }
    const Eigen::VectorXd b = random.gaussian(rows, 1);
    check_optimal(a, b);
    const auto [x, fitted] = nonnegative_least_squares(a, b);
    CHECK(static_cast<double>((test::exact(a) * test::exact(x) - test::exact(fitted)).norm()) <= 1e-12 * b.norm());
    // min |A x - b| with x >= 0 is the dual of the nearest point to -b with <a_r, d> >= 0: d = A x - b.
    const test::VectorL expected = test::nearest_in_cone(test::exact(a), -test::exact(b));
    const test::VectorL found = test::exact(fitted) - test::exact(b);
    CHECK(static_cast<double>((found - expected).norm()) <= 1e-12 * b.norm());
  }
}

TEST_CASE("non-negative least squares: every constraint holds with nearly dependent columns too") {
  for (int round = 0; round < 400; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 5000);
    const Index count = random.integer(2, 8);
    CAPTURE(round);
    Eigen::MatrixXd a = random.gaussian(count, count);
    for (Index j = 1; j < count; ++j) {
      const double gap = std::pow(10.0, -16 * random.uniform());
      a.col(j) = (random.integer(0, 1) ? 1 : -1) * a.col(random.integer(0, j - 1)) + gap * a.col(j);
    }
    check_optimal(a, random.gaussian(count, 1));
  }
}

TEST_CASE("non-negative least squares: the nearest point where columns nearly agree, or nearly oppose") {
  // In the plane: a_1 = (1, 0), a_2 = (sign, gap). For b between the two the answer is known.
  for (const double gap : {1e-3, 1e-7, 1e-10}) {
    CAPTURE(gap);
    Eigen::Matrix2d a;
    a << 1, 1, 0, gap;
    // b far above both columns' cone: only the second column helps.
    Eigen::Vector2d fitted = nonnegative_least_squares(a, Eigen::Vector2d(1, 1)).fitted;
    const Eigen::Vector2d unit = a.col(1).normalized();
    CHECK((fitted - unit * unit.dot(Eigen::Vector2d(1, 1))).norm() <= 1e-14);
    // b inside the thin cone is reached, as far as a constraint that holds to rounding tells the two columns apart.
    const Eigen::Vector2d inside = a * Eigen::Vector2d(0.3, 0.7);
    fitted = nonnegative_least_squares(a, inside).fitted;
    CHECK((fitted - inside).norm() <= 32 * test::roundoff<double> / gap);
    // Opposing columns span the upper half plane.
    a << 1, -1, 0, gap;
    fitted = nonnegative_least_squares(a, Eigen::Vector2d(0.4, 0.8)).fitted;
    CHECK((fitted - Eigen::Vector2d(0.4, 0.8)).norm() <= 1e-14);
    fitted = nonnegative_least_squares(a, Eigen::Vector2d(0.4, -0.8)).fitted;
    CHECK((fitted - Eigen::Vector2d(0.4, 0)).norm() <= 1e-14);
  }
}

TEST_CASE("non-negative least squares: any scale of the columns and of the right side") {
  for (const double column_scale : {1e-300, 1e-200, 1e-160, 1.0, 1e160, 1e200, 1e300}) {
    for (const double scale : {1e-300, 1e-200, 1e-160, 1.0, 1e160, 1e200, 1e300}) {
      CAPTURE(column_scale);
      CAPTURE(scale);
      Eigen::MatrixXd a(3, 3);
      a << 1, 1, 0, 0, 1, 0, 0, 0, 1;
      const Eigen::Vector3d b(1, 2, -1);
      a.col(1) *= column_scale;
      const auto [x, fitted] = nonnegative_least_squares(a, scale * b);
      CHECK((fitted / scale - Eigen::Vector3d(1.5, 1.5, 0)).norm() <= 1e-14);
      CHECK((x(0) == 0 && x(2) == 0));
      if (scale == column_scale) CHECK(x(1) == doctest::Approx(1.5));
    }
  }
}

TEST_CASE("non-negative least squares: closed forms and empty problems") {
  CHECK(nonnegative_least_squares(Eigen::MatrixXd(3, 0), Eigen::Vector3d(1, 2, 3)).x.size() == 0);
  CHECK(nonnegative_least_squares(Eigen::MatrixXd(0, 2), Eigen::VectorXd(0)).x == Eigen::Vector2d::Zero());
  CHECK(nonnegative_least_squares(Eigen::Matrix2d::Identity(), Eigen::Vector2d::Zero()).x == Eigen::Vector2d::Zero());
  CHECK(nonnegative_least_squares(Eigen::Matrix2d::Zero(), Eigen::Vector2d(1, 1)).x == Eigen::Vector2d::Zero());
  CHECK(nonnegative_least_squares(Eigen::Matrix2d::Identity(), Eigen::Vector2d(3, -2)).x == Eigen::Vector2d(3, 0));
}

}  // namespace test_nonnegative_least_squares
