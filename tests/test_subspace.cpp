#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_subspace {
namespace {

/// Checks an estimate against the exact SVD of the same columns. Singular values near the tolerance may fall on
/// either side of it; all others are decided.
template <class T>
void check_estimate(const test::Matrix<T>& h, const Subspace<T>& subspace, bool normalized = false) {
  const double u = test::roundoff<T>;
  const test::MatrixL q = test::exact(subspace.basis());
  CHECK(test::orthonormality_error(q) <= 16 * u);
  test::MatrixL exact = test::exact(h);
  for (Index j = 0; j < exact.cols() && normalized; ++j) {
    if (exact.col(j).norm() > 0) exact.col(j) /= exact.col(j).norm();
  }
  const auto svd = test::exact_svd(exact);
  const Real largest = svd.s.size() > 0 ? svd.s(0) : 0;
  const Real tolerance = static_cast<Real>(default_relative_tolerance<T>(h.cols())) * largest;
  const Real slack = 2 * std::sqrt(static_cast<Real>(std::max<Index>(h.cols(), 1)));
  Index surely = 0, possibly = 0;
  for (Index i = 0; i < svd.s.size(); ++i) {
    surely += svd.s(i) > tolerance * slack;
    possibly += svd.s(i) > tolerance / slack;
  }
  CHECK(subspace.rank() >= surely);
  CHECK(subspace.rank() <= possibly);
  for (Index i = 0; i < std::min(subspace.rank(), svd.s.size()); ++i) {
    CHECK(std::abs(static_cast<Real>(subspace.singular_values()(i)) - svd.s(i)) <= slack * tolerance);
  }
  // What is left out of any column is below the tolerance; the objectives' coordinates are those of the columns.
  REQUIRE(subspace.objectives().cols() == h.cols());
  for (Index j = 0; j < h.cols(); ++j) {
    const test::VectorL rest = exact.col(j) - q * (q.transpose() * exact.col(j));
    CHECK(rest.norm() <= slack * tolerance);
    const test::VectorL coordinates = subspace.objectives().col(j).template cast<Real>();
    CHECK((coordinates - q.transpose() * exact.col(j)).norm() <= slack * tolerance);
    CHECK(subspace.objective_norms()(j) == doctest::Approx(static_cast<double>(exact.col(j).norm())).epsilon(1e-6));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("estimate: contract, rank and singular values on random shapes with degenerate columns", T, float,
                   double) {
  for (int round = 0; round < 120; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index n = round % 4 == 0 ? random.integer(1, 12) : random.integer(1, 150);
    const Index m = random.integer(0, 20);
    CAPTURE(round);
    CAPTURE(n);
    CAPTURE(m);
    test::Matrix<T> h = random.gaussian<T>(n, m);
    for (Index j = 1; j < m; ++j) {
      const Index other = random.integer(0, j - 1);
      switch (random.integer(0, 6)) {
        case 0:
          h.col(j).setZero();
          break;
        case 1:
          h.col(j) = h.col(other);
          break;
        case 2:
          h.col(j) = h.col(other) * static_cast<T>(random.normal()) - h.col(random.integer(0, j - 1));
          break;
        case 3:
          h.col(j) = h.col(other) + h.col(j) * static_cast<T>(std::exp(-40 * random.uniform()));
          break;
        default:
          break;
      }
    }
    check_estimate(h, estimate(h));
    check_estimate(h, estimate(h, {}, {.method = Orthonormalization::cgs2, .normalize_columns = true}), true);
  }
}

TEST_CASE_TEMPLATE("estimate: condition up to 1/u", T, float, double) {
  for (const double exponent : {0.0, 0.25, 0.5, 0.75, 0.9, 1.0}) {
    for (const Index m : {2, 7, 33, 64}) {
      const double condition = std::pow(1 / test::roundoff<T>, exponent);
      Random random(static_cast<std::uint64_t>(m) + static_cast<std::uint64_t>(exponent * 1000));
      CAPTURE(condition);
      CAPTURE(m);
      const test::Matrix<T> h =
          random.with_singular_values(m == 64 ? 130 : 200, m, test::geometric(m, condition)).template cast<T>();
      check_estimate(h, estimate(h));
    }
  }
}

TEST_CASE_TEMPLATE("estimate: rank by count, share, energy and tolerance on a known spectrum", T, float, double) {
  Random random(7);
  Eigen::VectorXd s(6);
  s << 8, 4, 2, 1, 1e-2, 1e-4;
  const test::Matrix<T> h = random.with_singular_values(100, 6, s).template cast<T>();
  CHECK(estimate(h).rank() == 6);
  CHECK(estimate(h, {.max_rank = 2}).rank() == 2);
  CHECK(estimate(h, {.max_share = 0.031}).rank() == 4);
  CHECK(estimate(h, {.energy = 0.9}).rank() == 2);  // 64 + 16 of 85
  CHECK(estimate(h, {.energy = 0.95}).rank() == 3);
  CHECK(estimate(h, {.relative_tolerance = 1e-3}).rank() == 5);
  CHECK(estimate(h, {.max_rank = 5, .energy = 0.99999, .relative_tolerance = 0.01}).rank() == 4);
  const auto two = estimate(h, {.max_rank = 2});
  CHECK(test::sine_of_angle(test::exact(two.basis()), test::exact_svd(test::exact(h)).u.leftCols(2)) <=
        16 * test::roundoff<T>);
}

TEST_CASE_TEMPLATE("estimate: huge, tiny and denormal columns", T, float, double) {
  const bool single = std::is_same_v<T, float>;
  const std::vector<double> scales =
      single ? std::vector<double>{1e30, 1e-30, 1e38, 1e-40, 1} : std::vector<double>{1e200, 1e-200, 1e307, 1e-310, 1};
  Random random(3);
  for (const Index n : {1, 5, 400}) {
    const test::Matrix<T> unit = random.orthonormal(n, std::min<Index>(n, 5)).template cast<T>();
    test::Matrix<T> h(n, 5);
    for (Index j = 0; j < 5; ++j) {
      for (Index i = 0; i < n; ++i) {
        h(i, j) = static_cast<T>(static_cast<double>(unit(i, j % unit.cols())) * scales[static_cast<std::size_t>(j)]);
      }
    }
    CAPTURE(n);
    const auto normalized = estimate(h, {}, {.normalize_columns = true});
    CHECK(test::orthonormality_error(test::exact(normalized.basis())) <= 16 * test::roundoff<T>);
    CHECK(normalized.rank() == std::min<Index>(n, 5));
    // Each column alone: any scale has its direction.
    for (Index j = 0; j < 5; ++j) {
      CAPTURE(j);
      const auto alone = estimate(test::Matrix<T>(h.col(j)));
      REQUIRE(alone.rank() == 1);
      const double norm = static_cast<double>(test::exact(h).col(j).norm());
      CHECK(alone.singular_values()(0) == doctest::Approx(norm).epsilon(1e-6));
      CHECK(test::orthonormality_error(test::exact(alone.basis())) <= 16 * test::roundoff<T>);
    }
    // Together: what is below the tolerance of the largest is dropped.
    const auto together = estimate(h);
    CHECK(together.rank() == 1);
    CHECK(together.singular_values().allFinite());
    CHECK(together.objectives().allFinite());
  }
}

TEST_CASE_TEMPLATE("estimate: nothing to estimate from", T, float, double) {
  for (const Index n : {0, 1, 9}) {
    for (const Index m : {0, 1, 3}) {
      const auto s = estimate(test::Matrix<T>(test::Matrix<T>::Zero(n, m)));
      CHECK(s.dimension() == n);
      CHECK(s.rank() == 0);
      CHECK(s.objectives().cols() == m);
      CHECK(s.singular_values().size() == 0);
    }
  }
}

TEST_CASE("estimate: plain memory with a stride, row-major and expressions give the same bits") {
  Random random(9);
  const Eigen::MatrixXf h = random.gaussian<float>(60, 5);
  const auto expected = estimate(h);
  Eigen::MatrixXf padded(64, 5);
  padded.topRows(60) = h;
  const auto strided = estimate(MatrixView<const float>(padded.data(), 60, 5, 64));
  const auto row_major = estimate(Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>(h));
  const auto expression = estimate(2 * h / 2);
  for (const auto* s : {&strided, &row_major, &expression}) {
    CHECK(test::exact(s->basis()) == test::exact(expected.basis()));
    CHECK(s->singular_values() == expected.singular_values());
  }
}

TEST_CASE_TEMPLATE("estimate: gradients that are kept or consumed give the same subspace", T, float, double) {
  for (int kind = 0; kind < 4; ++kind) {
    CAPTURE(kind);
    Random random(static_cast<std::uint64_t>(kind) + 31);
    test::Matrix<T> h = random.gaussian<T>(3000, 5);
    if (kind == 1) h.col(3) = h.col(1);
    if (kind == 2) h.col(4) *= static_cast<T>(1e-30);
    // Too ill-conditioned for the Gram matrix alone: CholeskyQR2 for float, CGS2 for double.
    if (kind == 3) h.col(2) = h.col(0) + static_cast<T>(1e-5) * h.col(2);
    auto kept = test::on_backend<T>(h);
    Subspace<T> from_kept(h.rows()), from_consumed(h.rows());
    const EstimateOptions options = {.normalize_columns = kind % 2 == 0};
    from_kept.replace(MatrixView<const T>(kept.view()), {}, options);
    CHECK(test::from_backend(MatrixView<const T>(kept.view())) == h);
    from_consumed.replace(std::move(kept), {}, options);
    check_estimate(h, from_kept, options.normalize_columns);
    CHECK(test::from_backend(from_kept.basis()) == test::from_backend(from_consumed.basis()));
    CHECK(from_kept.singular_values() == from_consumed.singular_values());
    CHECK(from_kept.objectives() == from_consumed.objectives());
    CHECK(from_kept.objective_norms() == from_consumed.objective_norms());
  }
}

TEST_CASE_TEMPLATE("estimate: long gradients against Gram-Schmidt in long double", T, float, double) {
  const Index n = test::small_sizes ? 30000 : 1000000;
  const Index m = 3;
  Random random(21);
  test::Matrix<T> h = random.gaussian<T>(n, m);
  h.col(1) = h.col(0) * T(3) + h.col(1) * T(1e-4);
  const auto subspace = estimate(h);
  CHECK(subspace.rank() == m);
  test::MatrixL q = test::exact(h);
  for (Index j = 0; j < m; ++j) {
    for (int twice = 0; twice < 2; ++twice) {
      for (Index i = 0; i < j; ++i) q.col(j) -= q.col(i).dot(q.col(j)) * q.col(i);
    }
    q.col(j) /= q.col(j).norm();
  }
  const test::MatrixL basis = test::exact(subspace.basis());
  CHECK(test::orthonormality_error(basis) <= 16 * test::roundoff<T>);
  CHECK(test::sine_of_angle(q, basis) <= 1e5 * test::roundoff<T>);  // the condition is about 1e5
}

TEST_CASE_TEMPLATE("estimate: many columns, wide and tall", T, float, double) {
  Random random(22);
  const Index n = test::small_sizes ? 3000 : 40000;
  const test::Matrix<T> h = random.gaussian<T>(n, 64);
  const auto subspace = estimate(h);
  CHECK(subspace.rank() == 64);
  CHECK(test::orthonormality_error(test::exact(subspace.basis())) <= 16 * test::roundoff<T>);
  const Eigen::MatrixXd q = test::exact(subspace.basis()).template cast<double>();
  const Eigen::MatrixXd rest = h.template cast<double>() - q * (q.transpose() * h.template cast<double>());
  CHECK(rest.colwise().norm().maxCoeff() <=
        64 * test::roundoff<T> * h.template cast<double>().colwise().norm().maxCoeff());
}

}  // namespace test_subspace
