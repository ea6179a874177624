#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <numbers>

#include "ogpsa/backend/eigen.hpp"
#include "random.hpp"

using Eigen::MatrixXd;
using Eigen::VectorXd;
using ogpsa::Index;

namespace {

struct Solved {
  VectorXd values;
  MatrixXd vectors;
};

/// Through the backend, which is given the lower triangle alone.
Solved solve(const MatrixXd& a, Index count) {
  MatrixXd lower = a;
  for (Index j = 0; j < a.cols(); ++j) lower.col(j).head(j).setConstant(-77);
  Solved solved{{}, MatrixXd::Zero(a.rows(), count)};
  const ogpsa::EigenProblem<double> problem{{lower.data(), a.rows(), a.cols()},
                                            {solved.vectors.data(), a.rows(), count}};
  solved.values = ogpsa::EigenBackend().eigenvectors(std::span(&problem, 1)).front();
  return solved;
}

/// |A v - lambda v| and |V^T V - I| of factor * A, in units of rounding at the matrix's size.
void check(const MatrixXd& a, Index count, double factor = 1) {
  CAPTURE(a.rows());
  Solved solved = solve(factor * a, count);
  solved.values /= factor;
  const double u = 8 * std::numeric_limits<double>::epsilon() * static_cast<double>(10 + a.rows());
  REQUIRE(solved.values.size() == a.rows());
  for (Index i = 1; i < a.rows(); ++i) CHECK(solved.values(i) <= solved.values(i - 1));
  CHECK(std::abs(solved.values.sum() - a.trace()) <= u * a.norm());
  const MatrixXd residual = a * solved.vectors - solved.vectors * solved.values.head(count).asDiagonal();
  CHECK(residual.norm() <= u * a.norm());
  CHECK((solved.vectors.transpose() * solved.vectors - MatrixXd::Identity(count, count)).norm() <= u);
}

}  // namespace

TEST_CASE("eigenvalues of the second difference: 2 - 2 cos(k pi / (n + 1))") {
  for (const Index n : {1, 2, 3, 17, 150}) {
    MatrixXd a = 2 * MatrixXd::Identity(n, n);
    for (Index i = 0; i + 1 < n; ++i) a(i, i + 1) = a(i + 1, i) = -1;
    const VectorXd values = solve(a, 0).values;
    for (Index k = 0; k < n; ++k) {
      const double angle = static_cast<double>(n - k) * std::numbers::pi / static_cast<double>(n + 1);
      CHECK(std::abs(values(k) - (2 - 2 * std::cos(angle))) < 1e-13);
    }
    check(a, n);
  }
}

TEST_CASE("eigenvectors of any symmetric matrix, all or some") {
  test::Random random(7);
  for (const Index n : {1, 2, 5, 16, 33, 300, 400}) {
    const MatrixXd x = random.gaussian<double>(n, n);
    check(x + x.transpose(), n);                          // indefinite
    check(x * x.transpose(), (n + 1) / 2);                // positive
    check(x.leftCols(1) * x.leftCols(1).transpose(), n);  // rank 1: all others alike
    check(x + x.transpose(), 1, 0x1p600);                 // squares would overflow
    check(x + x.transpose(), n, 0x1p-600);
    VectorXd grades(n);
    for (Index i = 0; i < n; ++i) grades(i) = std::pow(10.0, -static_cast<double>(200 * i / n));
    check(grades.asDiagonal() * (x + x.transpose()) * grades.asDiagonal(), n);
  }
  check(MatrixXd::Zero(9, 9), 9);
  check(MatrixXd::Identity(9, 9), 9);
}

TEST_CASE("eigenvalues that are alike, nearly alike, or apart by many orders of magnitude") {
  test::Random random(11);
  const Index n = 170;
  const MatrixXd q = random.orthonormal(n, n);
  VectorXd values(n);
  const auto with_values = [&] { check(q * values.asDiagonal() * q.transpose(), n); };
  for (Index i = 0; i < n; ++i) values(i) = static_cast<double>(i % 3);
  with_values();  // three, each many times
  for (Index i = 0; i < n; ++i) values(i) = 1 + 1e-15 * static_cast<double>(i * i);
  with_values();
  for (Index i = 0; i < n; ++i) values(i) = std::pow(0.7, static_cast<double>(i));
  with_values();
  // Wilkinson's matrices W21+, in which eigenvalues agree to 14 digits, joined by tiny elements.
  MatrixXd wilkinson = MatrixXd::Zero(n, n);
  for (Index i = 0; i < n; ++i) wilkinson(i, i) = std::abs(static_cast<double>(i % 21) - 10);
  for (Index i = 0; i + 1 < n; ++i) wilkinson(i, i + 1) = wilkinson(i + 1, i) = i % 21 == 20 ? -1e-8 : 1.0;
  check(wilkinson, n);
  check(wilkinson, 40);
}

TEST_CASE("the leading eigenvectors do not depend on how many are asked for") {
  test::Random random(12);
  const Index n = 130;
  const MatrixXd x = random.gaussian<double>(n, n);
  const Solved all = solve(x * x.transpose(), n), some = solve(x * x.transpose(), 17);
  CHECK(all.values == some.values);
  CHECK((all.vectors.leftCols(17) - some.vectors).cwiseAbs().maxCoeff() <= 1e-12);
}

TEST_CASE("many eigenproblems at once give the bits that each gives alone, and none gives none") {
  test::Random random(13);
  const std::vector<std::pair<Index, Index>> sizes = {{70, 20}, {1, 1}, {150, 45}, {70, 70}, {0, 0}, {33, 0}, {3, 2}};
  std::vector<MatrixXd> matrices, vectors;
  std::vector<ogpsa::EigenProblem<double>> problems;
  for (const auto& [n, count] : sizes) {
    const MatrixXd x = random.gaussian<double>(n, n);
    matrices.emplace_back(x * x.transpose());
    vectors.push_back(MatrixXd::Zero(n, count));
  }
  for (std::size_t p = 0; p < sizes.size(); ++p) {
    const auto [n, count] = sizes[p];
    problems.push_back({{matrices[p].data(), n, n}, {vectors[p].data(), n, count}});
  }
  const auto values = ogpsa::EigenBackend().eigenvectors(std::span<const ogpsa::EigenProblem<double>>(problems));
  REQUIRE(values.size() == sizes.size());
  for (std::size_t p = 0; p < sizes.size(); ++p) {
    CAPTURE(p);
    const Solved alone = solve(matrices[p], sizes[p].second);
    CHECK(values[p] == alone.values);
    CHECK(vectors[p] == alone.vectors);
  }
  CHECK(ogpsa::EigenBackend().eigenvectors(std::span<const ogpsa::EigenProblem<double>>()).empty());
  matrices[3](5, 5) = std::numeric_limits<double>::quiet_NaN();
  CHECK_THROWS_WITH_AS(ogpsa::EigenBackend().eigenvectors(std::span<const ogpsa::EigenProblem<double>>(problems)),
                       doctest::Contains("70 x 70"), ogpsa::NumericalError);
}

TEST_CASE("a matrix with a value that is not finite is refused") {
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    MatrixXd a = MatrixXd::Identity(4, 4);
    a(3, 1) = bad;
    CHECK_THROWS_AS(solve(a, 2), ogpsa::NumericalError);
  }
}
