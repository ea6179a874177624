#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/small_dense.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_small_dense {
namespace {

constexpr double u = test::roundoff<double>;

void check_svd(const Eigen::MatrixXd& a) {
  const auto svd = detail::small_svd(a);
  const Index r = std::min(a.rows(), a.cols());
  REQUIRE(svd.s.size() == r);
  REQUIRE((svd.u.rows() == a.rows() && svd.u.cols() == r && svd.v.rows() == a.cols() && svd.v.cols() == r));
  if (r == 0) return;
  const double size = 64 * static_cast<double>(std::max(a.rows(), a.cols()));
  CHECK(test::orthonormality_error(test::exact(svd.u)) <= size * u);
  CHECK(test::orthonormality_error(test::exact(svd.v)) <= size * u);
  const auto expected = test::exact_svd(test::exact(a));
  for (Index i = 0; i < r; ++i) {
    CHECK(std::abs(static_cast<Real>(svd.s(i)) - expected.s(i)) <= size * u * expected.s(0));
    CHECK(svd.s(i) >= 0);
    if (i > 0) CHECK(svd.s(i) <= svd.s(i - 1));
  }
  const test::MatrixL rebuilt = test::exact(svd.u) * test::exact(svd.s).asDiagonal() * test::exact(svd.v).transpose();
  CHECK((test::exact(a) - rebuilt).norm() <= size * u * expected.s(0));
}

}  // namespace

TEST_CASE("small SVD: any shape, rank, clustering and scale, against long double") {
  for (int round = 0; round < 200; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index rows = random.integer(0, 40), cols = random.integer(0, 40);
    CAPTURE(round);
    Eigen::MatrixXd a = random.gaussian(rows, cols);
    const Index kind = random.integer(0, 7);
    for (Index j = 0; j < cols; ++j) {
      if (kind == 0 && j % 2 == 1) a.col(j) = a.col(j - 1);
      if (kind == 1 && j % 3 == 1) a.col(j).setZero();
      if (kind == 2) a.col(j) *= std::pow(10.0, -static_cast<double>(j));
      // Down to 1e-140 of the largest, so that squares stay in range.
      if (kind == 3) a.col(j) *= std::pow(10.0, 3.5 * static_cast<double>(j) - 240);
      if (kind == 4) a.col(j) = a.col(0) + 1e-15 * a.col(j);
    }
    if (kind == 5) a *= 1e200;
    if (kind == 6) a *= 1e-200;
    if (kind == 7) a *= 1e-310;
    check_svd(a);
  }
}

TEST_CASE("small SVD: special matrices") {
  check_svd(Eigen::MatrixXd::Identity(9, 9));
  check_svd(Eigen::MatrixXd::Ones(7, 12));
  check_svd(Eigen::MatrixXd::Zero(6, 4));
  check_svd(Eigen::MatrixXd::Constant(1, 1, -3));
  Eigen::MatrixXd hilbert(12, 12), kahan = Eigen::MatrixXd::Zero(30, 30);
  for (Index i = 0; i < 12; ++i) {
    for (Index j = 0; j < 12; ++j) hilbert(i, j) = 1.0 / static_cast<double>(i + j + 1);
  }
  for (Index i = 0; i < 30; ++i) {
    kahan(i, i) = std::pow(0.9, static_cast<double>(i));
    for (Index j = i + 1; j < 30; ++j) kahan(i, j) = -0.43 * kahan(i, i);
  }
  check_svd(hilbert);
  check_svd(kahan);
}

TEST_CASE("small SVD: tiny singular values of graded triangles to high relative accuracy") {
  Random random(3);
  Eigen::MatrixXd r = random.gaussian(10, 10);
  for (Index j = 0; j < 10; ++j) r.col(j) *= std::pow(10.0, -3.0 * static_cast<double>(j));
  const auto svd = detail::small_svd(r);
  const auto expected = test::exact_svd(test::exact(r));
  // Long double itself knows the smallest to 1e-19 of the largest.
  for (Index i = 0; i < 6; ++i) CHECK(svd.s(i) == doctest::Approx(static_cast<double>(expected.s(i))).epsilon(1e-3));
}

TEST_CASE("small matrices put together") {
  for (int round = 0; round < 20; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index k = random.integer(0, 5), p = random.integer(0, 4);
    const Eigen::MatrixXd a = random.gaussian(k, k), b = random.gaussian(k, p), c = random.gaussian(p, p);
    Eigen::MatrixXd expected(k + p, k + p);
    expected << a, b, b.transpose(), c;
    CHECK(detail::bordered(a, b, c) == expected);
    CHECK(detail::trailing_columns(expected, p) == expected.rightCols(p));
    CHECK(detail::side_by_side(a, b) == expected.topRows(k));
  }
}

TEST_CASE("small least squares, Cholesky and triangular inverse") {
  for (int round = 0; round < 100; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 70);
    CAPTURE(round);
    const Index rows = random.integer(1, 20), cols = random.integer(1, 20);
    Eigen::MatrixXd a = random.gaussian(rows, cols);
    if (round % 3 == 0 && cols > 1) a.col(1) = a.col(0);
    const Eigen::VectorXd b = random.gaussian(rows, 1);
    const auto svd = test::exact_svd(test::exact(a));
    test::VectorL expected = test::VectorL::Zero(cols);
    double condition = 1;
    for (Index i = 0; i < svd.s.size(); ++i) {
      if (svd.s(i) < 1e-13L * svd.s(0)) continue;
      condition = static_cast<double>(svd.s(0) / svd.s(i));
      expected += svd.u.col(i).dot(test::exact(b)) / svd.s(i) * svd.v.col(i);
    }
    const Eigen::VectorXd x = detail::least_squares(a, b);
    CHECK((test::exact(x) - expected).norm() <= 1e-13 * condition * condition * std::max<Real>(expected.norm(), 1));

    const Eigen::MatrixXd square = random.gaussian(cols + 5, cols), gram = square.transpose() * square;
    const auto r = detail::upper_cholesky(gram);
    REQUIRE(r);
    CHECK(r->isUpperTriangular(0));
    CHECK((r->transpose() * *r - gram).norm() <= 1e-14 * static_cast<double>(cols) * gram.norm());
    const Eigen::MatrixXd inverse = detail::inverse_upper(*r);
    const double size = r->norm() * inverse.norm();
    CHECK((*r * inverse - Eigen::MatrixXd::Identity(cols, cols)).norm() <= 1e-14 * size);
  }
  CHECK_FALSE(detail::upper_cholesky(-Eigen::MatrixXd::Identity(2, 2)));
  CHECK_FALSE(detail::upper_cholesky(Eigen::MatrixXd::Zero(2, 2)));
  CHECK_FALSE(detail::upper_cholesky(Eigen::MatrixXd::Constant(2, 2, std::nan(""))));
  CHECK(detail::upper_cholesky(Eigen::MatrixXd(0, 0))->size() == 0);
}

}  // namespace test_small_dense
