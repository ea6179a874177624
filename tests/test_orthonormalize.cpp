#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_orthonormalize {
namespace {

constexpr auto all_methods = {Orthonormalization::automatic, Orthonormalization::cgs2, Orthonormalization::cholesky_qr2,
                              Orthonormalization::shifted_cholesky_qr3};

template <class T>
struct Factors {
  test::Matrix<T> q;
  Eigen::MatrixXd r;
};
template <class T>
Factors<T> factorize(const test::Matrix<T>& h, Orthonormalization method) {
  auto columns = test::on_backend<T>(h);
  const auto qr = orthonormalize(EigenBackend(), columns.view(), method);
  return {test::from_backend(MatrixView<const T>(columns.view())).leftCols(qr.rank), qr.r};
}

/// The contract, and H = Q R column by column.
/// \param digits  how many digits of H - Q R an explicit inverse may cost (CholeskyQR in double)
template <class T>
void check_factors(const test::Matrix<T>& h, const Factors<T>& f, int digits = 0) {
  const double u = test::roundoff<T>;
  const test::MatrixL q = test::exact(f.q), exact = test::exact(h);
  CHECK(test::orthonormality_error(q) <= 16 * u);
  const test::MatrixL rest = exact - q * test::exact(f.r);
  const double tolerance = default_relative_tolerance<T>(h.cols());
  for (Index j = 0; j < h.cols(); ++j) {
    CAPTURE(j);
    const double bound = (tolerance + 16 * u) * std::pow(10.0, digits);
    CHECK(static_cast<double>(rest.col(j).norm()) <= bound * static_cast<double>(exact.col(j).norm()));
  }
}

/// A random matrix that has everything: dependent, repeated, zero, huge and tiny columns.
template <class T>
test::Matrix<T> nasty(Random& random, Index n, Index m, double extreme) {
  test::Matrix<T> h = random.gaussian<T>(n, m);
  for (Index j = 1; j < m; ++j) {
    const Index kind = random.integer(0, 9);
    const Index other = random.integer(0, j - 1);
    if (kind == 0) h.col(j).setZero();
    if (kind == 1) h.col(j) = h.col(other);
    if (kind == 2) h.col(j) = static_cast<T>(random.normal()) * h.col(other) + h.col(random.integer(0, j - 1));
    if (kind == 3) h.col(j) *= static_cast<T>(extreme);
    if (kind == 4) h.col(j) /= static_cast<T>(extreme);
    if (kind == 5)
      h.col(j) = h.col(other) + h.col(j) * static_cast<T>(8 * test::roundoff<T> * (1 + 100 * random.uniform()));
  }
  return h;
}

}  // namespace

TEST_CASE_TEMPLATE("orthonormalize: contract on random shapes with degenerate columns", T, float, double) {
  for (int round = 0; round < 200; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index n = random.integer(1, round % 10 == 0 ? 300 : 60), m = random.integer(1, round % 10 == 0 ? 40 : 16);
    CAPTURE(round);
    CAPTURE(n);
    CAPTURE(m);
    const auto h = nasty<T>(random, n, m, 1e15);
    for (const auto method : {Orthonormalization::automatic, Orthonormalization::cgs2}) {
      CAPTURE(static_cast<int>(method));
      const auto f = factorize(h, method);
      CHECK(f.q.cols() <= std::min(n, m));
      check_factors(h, f);
    }
  }
}

TEST_CASE_TEMPLATE("orthonormalize: each method up to the condition that it is documented for", T, float, double) {
  for (const double digits : {0.0, 2.0, 4.0, 6.0, 7.0, 10.0, 12.0, 14.0, 15.0}) {
    const double condition = std::pow(10.0, digits);
    if (condition > 1 / test::roundoff<T> * 2) continue;
    for (const Index m : {2, 9, 40}) {
      Random random(static_cast<std::uint64_t>(digits * 100) + static_cast<std::uint64_t>(m));
      const auto s = test::geometric(m, condition);
      const test::Matrix<T> h = random.with_singular_values(160, m, s).template cast<T>();
      CAPTURE(condition);
      CAPTURE(m);
      for (const auto method : all_methods) {
        CAPTURE(static_cast<int>(method));
        const double limit = std::is_same_v<T, float>                             ? 1e7
                             : method == Orthonormalization::cholesky_qr2         ? 1e7
                             : method == Orthonormalization::shifted_cholesky_qr3 ? 1e12
                                                                                  : 1e16;
        if (condition > limit) continue;
        const bool cholesky = method != Orthonormalization::cgs2;
        check_factors(h, factorize(h, method), cholesky && std::is_same_v<T, double> ? 1 : 0);
      }
    }
  }
}

TEST_CASE_TEMPLATE("orthonormalize: a method chosen by the caller keeps the contract or says that it cannot", T, float,
                   double) {
  int kept = 0, refused = 0;
  for (int round = 0; round < 200; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 1000);
    const Index n = random.integer(1, 120), m = random.integer(1, 24);
    const auto h = nasty<T>(random, n, m, 1e3);
    CAPTURE(round);
    for (const auto method : {Orthonormalization::cholesky_qr2, Orthonormalization::shifted_cholesky_qr3}) {
      CAPTURE(static_cast<int>(method));
      try {
        const auto f = factorize(h, method);
        check_factors(h, f);
        CHECK(f.q.cols() == m);
        ++kept;
      } catch (const NumericalError&) {
        ++refused;
      }
    }
  }
  CHECK(kept > 10);
  CHECK(refused > 10);
}

TEST_CASE_TEMPLATE("orthonormalize: columns far outside of the range of squares", T, float, double) {
  const double extreme = std::is_same_v<T, float> ? 1e30 : 1e200;
  const double tiny = std::is_same_v<T, float> ? 1e-40 : 1e-310;  // denormal
  for (const auto method : all_methods) {
    CAPTURE(static_cast<int>(method));
    Random random(5);
    test::Matrix<T> h = random.gaussian<T>(50, 4);
    h.col(1) *= static_cast<T>(extreme);
    h.col(2) /= static_cast<T>(extreme);
    for (Index i = 0; i < 50; ++i) h(i, 3) = static_cast<T>(static_cast<double>(h(i, 3)) * tiny);
    const auto f = factorize(h, method);
    CHECK(f.q.cols() == 4);
    CHECK(test::orthonormality_error(test::exact(f.q)) <= 16 * test::roundoff<T>);
    const test::MatrixL rest = test::exact(h) - test::exact(f.q) * test::exact(f.r);
    for (Index j = 0; j < 3; ++j) CHECK(rest.col(j).norm() <= 32 * test::roundoff<T> * test::exact(h).col(j).norm());
  }
}

TEST_CASE_TEMPLATE("orthonormalize: one row, more columns than rows, no columns, zero columns", T, float, double) {
  const auto one = factorize<T>(test::Matrix<T>::Constant(1, 3, T(-2)), Orthonormalization::automatic);
  CHECK(one.q.cols() == 1);
  CHECK(std::abs(one.q(0, 0)) == 1);
  Random random(3);
  const test::Matrix<T> wide = random.gaussian<T>(5, 30);
  const auto f = factorize(wide, Orthonormalization::automatic);
  CHECK(f.q.cols() == 5);
  check_factors(wide, f);
  CHECK(factorize<T>(test::Matrix<T>(7, 0), Orthonormalization::automatic).q.cols() == 0);
  CHECK(factorize<T>(test::Matrix<T>::Zero(7, 3), Orthonormalization::automatic).q.cols() == 0);
  CHECK(factorize<T>(test::Matrix<T>(0, 3), Orthonormalization::automatic).q.cols() == 0);
}

TEST_CASE_TEMPLATE("orthonormalize: long columns", T, float, double) {
  const Index n = test::small_sizes ? 50000 : 1000000;
  Random random(11);
  test::Matrix<T> h = random.gaussian<T>(n, 4);
  h.col(2) = h.col(0) + T(1e-5) * h.col(1);
  for (const auto method : all_methods) {
    CAPTURE(static_cast<int>(method));
    const test::Matrix<T> used = method == Orthonormalization::automatic ? h : test::Matrix<T>(h.leftCols(2));
    check_factors(used, factorize(used, method));
  }
}

}  // namespace test_orthonormalize
