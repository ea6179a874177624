#include <doctest/doctest.h>

#include "backend.hpp"
#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_tall_matrix {
namespace {

template <class T>
MatrixView<const T> constant(MatrixView<T> a) {
  return a;
}

}  // namespace

TEST_CASE("a host matrix has room for one more column, and then for as many again") {
  HostMatrix<float> a(100, 3);
  a.data()[299] = 7;
  const float* const before = a.data();
  for (int i = 0; i < 3; ++i) {
    a.resize_columns(4);
    a.data()[399] = 8;
    a.resize_columns(3);
  }
  CHECK(a.data() == before);
  a.resize_columns(9);
  CHECK(a.data()[299] == 7);
  for (Index i = 300; i < 900; ++i) CHECK(a.data()[i] == 0);
  auto unfilled = HostMatrix<float>::unfilled(100, 2);
  CHECK((unfilled.rows() == 100 && unfilled.cols() == 2));
  std::fill(unfilled.data(), unfilled.data() + 200, 9.0F);
  unfilled.resize_columns(1);
  unfilled.resize_columns(3);
  CHECK(unfilled.data()[99] == 9);
  for (Index i = 100; i < 300; ++i) CHECK(unfilled.data()[i] == 0);
  CHECK(HostMatrix<float>(0, 5).cols() == 5);
  CHECK(HostMatrix<float>(5, 0).rows() == 5);
}

TEST_CASE_TEMPLATE("tall matrices: products against long double, with columns apart", T, float, double) {
  const EigenBackend backend;
  for (int round = 0; round < 40; ++round) {
    Random random(static_cast<std::uint64_t>(round) + 10);
    const Index n = round < 5 ? round : random.integer(1, round % 20 == 8 ? 70000 : 700);
    const Index ka = random.integer(0, 12), kb = random.integer(0, 12), padding = random.integer(0, 3);
    CAPTURE(round);
    CAPTURE(n);
    const test::Matrix<T> a = random.gaussian<T>(n + padding, ka), b = random.gaussian<T>(n, kb);
    const test::MatrixL ae = test::exact(a.topRows(n)), be = test::exact(b);
    auto a_held = test::on_backend<T>(a), b_held = test::on_backend<T>(b);
    const auto av = a_held.view().row_range(0, n), bv = b_held.view();
    const double u = test::roundoff<double>;

    const Eigen::MatrixXd gram = backend.gram(constant(av), constant(bv));
    const test::MatrixL magnitudes = ae.cwiseAbs().transpose() * be.cwiseAbs();
    const test::MatrixL gram_error = (gram.cast<Real>() - ae.transpose() * be).cwiseAbs();
    if (gram.size() > 0) CHECK((gram_error - 70 * u * magnitudes).maxCoeff() <= 0);

    const double unit = 2 * test::roundoff<T> + 20 * u;
    const Eigen::MatrixXd small = random.gaussian(ka, kb);
    backend.subtract_product(bv, constant(av), small);
    if (n > 0 && kb > 0) {
      const test::MatrixL expected = be - ae * small.cast<Real>();
      const test::MatrixL bound = be.cwiseAbs() + ae.cwiseAbs() * small.cast<Real>().cwiseAbs();
      CHECK(((test::exact(constant(bv)) - expected).cwiseAbs() - unit * bound).maxCoeff() <= 0);
    }
    const Index kept = std::min(ka, kb);
    const Eigen::MatrixXd square = random.gaussian(ka, kept);
    auto other_held = test::on_backend<T>(test::Matrix<T>(random.gaussian<T>(n + 2, kept)));
    const auto elsewhere = other_held.view().row_range(0, n);
    const Eigen::MatrixXd squares = backend.multiply(constant(av), square, elsewhere);
    CHECK(test::from_backend(constant(a_held.view())) == a);
    const test::MatrixL there = test::exact(constant(elsewhere));
    const Eigen::MatrixXd again = backend.multiply(constant(av), square, av.columns(0, kept));
    const test::Matrix<T> product = test::from_backend(constant(a_held.view()));
    if (n > 0 && kept > 0) {
      const test::MatrixL expected = ae * square.cast<Real>();
      const test::MatrixL bound = ae.cwiseAbs() * square.cast<Real>().cwiseAbs();
      CHECK(((there - expected).cwiseAbs() - unit * bound).maxCoeff() <= 0);
      const test::MatrixL error = (squares.cast<Real>() - there.transpose() * there).cwiseAbs();
      CHECK((error - 70 * u * (there.cwiseAbs().transpose() * there.cwiseAbs())).maxCoeff() <= 0);
      CHECK(test::exact(product.topRows(n).leftCols(kept)) == there);  // in place, too
      CHECK(again == squares);
    }
    CHECK(product.bottomRows(padding) == a.bottomRows(padding));  // between the columns nothing is written
  }
}

}  // namespace test_tall_matrix
