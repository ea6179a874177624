#include <doctest/doctest.h>

#include <limits>

#include "exact.hpp"
#include "ogpsa/projector.hpp"
#include "random.hpp"
#include "support.hpp"

using namespace ogpsa;
using test::DeviceTensor;
using test::from_backend;
using test::on_backend;
using test::Random;
using test::Real;

namespace test_primitives {
namespace {

template <class T>
std::vector<T> gaussian(Random& random, Index n) {
  std::vector<T> values;
  for (Index i = 0; i < n; ++i) values.push_back(static_cast<T>(random.normal()));
  return values;
}

template <class T>
MatrixView<const T> constant(MatrixView<T> a) {
  return a;
}

}  // namespace

TEST_CASE_TEMPLATE("primitives: the first value that is not finite, too large or outside; the largest", S, float,
                   double, bfloat16, float16) {
  const CudaBackend backend;
  const double largest = static_cast<double>(std::numeric_limits<S>::max());
  for (const Index n : {1, 5, 255, 256, 257, 65536, 65537, 200001}) {
    Random random(static_cast<std::uint64_t>(n));
    CAPTURE(n);
    auto values = gaussian<S>(random, n);
    double expected = 0;
    for (const S x : values) expected = std::max(expected, std::abs(static_cast<double>(x)));
    const DeviceTensor<S> good(values);
    CHECK(backend.first_non_finite(good.view()) == -1);
    CHECK(backend.first_beyond(good.view(), 8) == -1);
    CHECK(backend.first_outside(good.view(), -1e3, 1e3) == -1);
    CHECK(backend.max_abs(good.view()) == expected);
    for (const S bad : {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity(),
                        static_cast<S>(-std::numeric_limits<S>::infinity())}) {
      auto copy = values;
      const Index at = random.integer(0, n - 1);
      copy[static_cast<std::size_t>(at)] = bad;
      copy.back() = bad;
      const DeviceTensor<S> held(copy);
      CHECK(backend.first_non_finite(held.view()) == at);
      CHECK(backend.first_beyond(held.view(), 8) == at);
      CHECK(backend.first_outside(held.view(), -largest, largest) == at);
    }
    for (const double large : {256.0, -256.0, 300.0}) {
      auto copy = values;
      const Index at = random.integer(0, n - 1);
      copy[static_cast<std::size_t>(at)] = static_cast<S>(large);
      const DeviceTensor<S> held(copy);
      CHECK(backend.first_non_finite(held.view()) == -1);
      CHECK(backend.first_beyond(held.view(), 8) == at);
      CHECK(backend.first_beyond(held.view(), 9) == -1);
      CHECK(backend.first_outside(held.view(), -255, 255) == at);
      CHECK(backend.max_abs(held.view()) == std::abs(static_cast<double>(static_cast<S>(large))));
    }
  }
}

TEST_CASE_TEMPLATE("primitives: every finite half-precision number goes to float and back", S, bfloat16, float16) {
  std::vector<S> all;
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const S x = Eigen::numext::bit_cast<S>(static_cast<std::uint16_t>(bits));
    if (Eigen::numext::isfinite(x)) all.push_back(x);
  }
  const CudaBackend backend;
  const DeviceTensor<S> held(all);
  auto column = backend.matrix<float>(static_cast<Index>(all.size()), 1);
  backend.load(held.view(), column.view());
  const test::Matrix<float> values = from_backend(constant(column.view()));
  const DeviceTensor<S> back(std::vector<S>(all.size(), S(0))), zero(std::vector<S>(all.size(), S(0)));
  backend.move(back.view(), zero.view(), constant(column.view()));
  const auto returned = back.values();
  for (std::size_t i = 0; i < all.size(); ++i) {
    REQUIRE(values(static_cast<Index>(i)) == static_cast<float>(all[i]));
    REQUIRE(static_cast<float>(returned[i]) == static_cast<float>(all[i]));
  }
}

TEST_CASE_TEMPLATE("primitives: rounding to half precision is to the nearest, ties to even", S, bfloat16, float16) {
  Random random(4);
  const CudaBackend backend;
  std::vector<float> values = {0.0f, -0.0f, 1e-45f, 1e38f, -1e38f, 65504.0f, 65519.0f, 65520.0f, 3e-8f, 2.99e-8f};
  for (int i = 0; i < 50000; ++i) {
    values.push_back(static_cast<float>(std::ldexp(random.normal(), static_cast<int>(random.integer(-30, 20)))));
    const S half = static_cast<S>(values.back());  // and the middle between two neighbours
    const auto bits = Eigen::numext::bit_cast<std::uint16_t>(half);
    const S next = Eigen::numext::bit_cast<S>(static_cast<std::uint16_t>(bits + 1));
    if (Eigen::numext::isfinite(next)) {
      values.push_back((static_cast<float>(half) + static_cast<float>(next)) / 2);
    }
  }
  auto column = backend.matrix<float>(static_cast<Index>(values.size()), 1);
  backend.from_host(std::span<const float>(values), column.view());
  const DeviceTensor<S> held(std::vector<S>(values.size(), S(0))), zero(std::vector<S>(values.size(), S(0)));
  backend.move(held.view(), zero.view(), constant(column.view()));
  const auto stored = held.values();
  for (std::size_t i = 0; i < values.size(); ++i) {
    CAPTURE(values[i]);
    REQUIRE(static_cast<float>(stored[i]) == static_cast<float>(static_cast<S>(values[i])));
  }
}

TEST_CASE_TEMPLATE("primitives: one element at a time, from every storage type", S, float, double, bfloat16, float16) {
  const CudaBackend backend;
  for (const Index n : {1, 300, 4096, 9000}) {
    Random random(static_cast<std::uint64_t>(n));
    auto x = gaussian<S>(random, n), y = gaussian<S>(random, n);
    for (S& v : y) v = static_cast<S>(1.5 + std::abs(static_cast<double>(v)));
    const DeviceTensor<S> xt(x), yt(y);
    const test::Matrix<double> a = random.gaussian(n, 2);
    auto held = on_backend<double>(a);
    const auto at = [](const std::vector<S>& v, Index i) {
      return static_cast<double>(v[static_cast<std::size_t>(i)]);
    };
    test::Matrix<double> expected = a;
    backend.add_scaled(held.view().columns(0, 1), xt.view(), 0.37);
    backend.divide_rows(held.view(), yt.view());
    const std::vector<double> factors = {2.0, -0.3};
    backend.scale_columns(held.view(), factors);
    for (Index i = 0; i < n; ++i) {
      expected(i, 0) = (a(i, 0) + 0.37 * at(x, i)) / at(y, i) * 2.0;
      expected(i, 1) = a(i, 1) / at(y, i) * -0.3;
    }
    CHECK((from_backend(constant(held.view())) - expected).norm() <= 1e-14 * expected.norm());
    backend.load_difference(held.view().columns(0, 1), xt.view(), yt.view());
    backend.move(xt.view(), yt.view(), constant(held.view().columns(1, 1)));
    const auto result = from_backend(constant(held.view()));
    const auto stored = xt.values();
    for (Index i = 0; i < n; ++i) {
      REQUIRE(result(i, 0) == at(x, i) - at(y, i));
      const auto sum = static_cast<S>(at(x, i) + (result(i, 1) - (at(x, i) - at(y, i))));
      REQUIRE(stored[static_cast<std::size_t>(i)] == sum);
    }
  }
}

TEST_CASE_TEMPLATE("primitives: sides and squares of a matrix in both layouts", S, float, bfloat16) {
  const CudaBackend backend;
  Random random(3);
  const Index rows = 37, cols = 300;
  const auto values = gaussian<S>(random, rows * cols);
  const DeviceTensor<S> held(values);
  for (const Layout layout : {Layout::row_major, Layout::column_major}) {
    const TensorView tensor(held.view().data, dtype_of<S>(), rows, cols, layout);
    test::MatrixL x(tensor.fast(), tensor.slow());
    for (Index i = 0; i < x.size(); ++i)
      x(i) = static_cast<Real>(static_cast<float>(values[static_cast<std::size_t>(i)]));
    for (const bool fast_side : {true, false}) {
      const test::MatrixL y = fast_side ? x : test::MatrixL(x.transpose());
      auto columns = backend.matrix<float>(y.rows(), 5);
      backend.load_side(tensor, fast_side, 11, columns.view());
      CHECK(test::exact(constant(columns.view())) == y.middleCols(11, 5));
      auto sum = on_backend<float>(test::Matrix<float>::Identity(y.rows(), y.rows()));
      backend.add_outer(sum.view(), tensor, 0.5, fast_side);
      const test::MatrixL expected = test::MatrixL::Identity(y.rows(), y.rows()) + Real(0.25) * y * y.transpose();
      const test::MatrixL found = test::exact(constant(sum.view()));
      const test::MatrixL error = (found - expected).template triangularView<Eigen::Lower>();
      CHECK(error.norm() <= 32 * test::roundoff<float> * expected.norm());
    }
  }
}

TEST_CASE("primitives: bases are kept in full, and another storage is refused where a projector is made") {
  const std::vector<BlockSpec> blocks = {{.name = "w", .cols = 100}};
  using Rounded = Projector<float, CudaBackend>;
  CHECK_THROWS_WITH_AS(Rounded(blocks, {.basis_storage = BasisStorage::int8}), doctest::Contains("CUDA backend"),
                       InvalidArgument);
}

}  // namespace test_primitives
