#include <doctest/doctest.h>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_thin_svd {
namespace {

template <class T>
void check_svd(const test::Matrix<T>& h, Orthonormalization method = Orthonormalization::automatic) {
  const double u = test::roundoff<T>;
  auto held = test::on_backend<T>(h);
  const ThinSvd svd = thin_svd(EigenBackend(), held.view(), method);
  const test::Matrix<T> columns = test::from_backend(MatrixView<const T>(held.view()));
  const Index r = svd.singular_values.size();
  const test::MatrixL exact = test::exact(h), left = test::exact(columns.leftCols(r));
  const test::VectorL expected = test::exact_svd(exact).s;
  const Real largest = expected.size() > 0 ? expected(0) : 0;
  const double tolerance = default_relative_tolerance<T>(h.cols()) * std::sqrt(static_cast<double>(h.cols())) + 16 * u;
  REQUIRE(r <= expected.size());
  for (Index i = 0; i < expected.size(); ++i) {
    CAPTURE(i);
    const Real found = i < r ? static_cast<Real>(svd.singular_values(i)) : 0;
    CHECK(std::abs(found - expected(i)) <= tolerance * largest);
    if (i > 0 && i < r) CHECK(svd.singular_values(i) <= svd.singular_values(i - 1));
  }
  CHECK(test::orthonormality_error(left) <= 16 * u);
  CHECK(test::orthonormality_error(test::exact(svd.v)) <= 1e-13);
  const test::MatrixL rest =
      exact - left * svd.singular_values.cast<Real>().asDiagonal() * svd.v.transpose().cast<Real>();
  CHECK(rest.norm() <= tolerance * std::sqrt(static_cast<double>(h.cols())) * largest);
}

}  // namespace

TEST_CASE_TEMPLATE("thin SVD against Jacobi in long double, random shapes and spectra", T, float, double) {
  for (int round = 0; round < 60; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    const Index n = random.integer(1, 200), m = random.integer(1, 30);
    const Index rank = random.integer(1, std::min(n, m));
    const double condition = std::pow(10.0, random.uniform() * (std::is_same_v<T, float> ? 7 : 15));
    CAPTURE(round);
    CAPTURE(n);
    CAPTURE(m);
    CAPTURE(rank);
    CAPTURE(condition);
    check_svd<T>(random.with_singular_values(n, m, test::geometric(rank, condition)).template cast<T>());
  }
}

TEST_CASE_TEMPLATE("thin SVD: repeated, clustered and zero singular values", T, float, double) {
  Random random(1);
  Eigen::VectorXd s(8);
  s << 3, 3, 3, 1 + 1e-6, 1, 1, 0, 0;
  check_svd<T>(random.with_singular_values(90, 8, s).template cast<T>());
  check_svd<T>(test::Matrix<T>::Identity(40, 12));
  check_svd<T>(test::Matrix<T>::Zero(40, 5));
  check_svd<T>(test::Matrix<T>::Ones(40, 5));
  check_svd<T>(test::Matrix<T>(40, 0));
  check_svd<T>(random.gaussian<T>(3, 17));
  check_svd<T>(random.gaussian<T>(60, 1).replicate(1, 9));
  const test::Matrix<T> h = random.with_singular_values(100, 6, test::geometric(6, 1e3)).template cast<T>();
  check_svd<T>(h, Orthonormalization::cgs2);
  check_svd<T>(h, Orthonormalization::cholesky_qr2);
  check_svd<T>(h, Orthonormalization::shifted_cholesky_qr3);
}

}  // namespace test_thin_svd
