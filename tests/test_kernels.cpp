#include <doctest/doctest.h>

#include <bit>
#include <limits>
#include <stdexcept>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_kernels {
namespace {

/// Sum of products in long double.
template <class T>
Real exact_dot(const std::vector<T>& a, const std::vector<T>& b) {
  Real sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<Real>(a[i]) * static_cast<Real>(b[i]);
  return sum;
}

template <class S>
std::vector<S> bad_values() {
  return {std::numeric_limits<S>::quiet_NaN(), std::numeric_limits<S>::infinity(), -std::numeric_limits<S>::infinity(),
          std::numeric_limits<S>::signaling_NaN()};
}

}  // namespace

TEST_CASE_TEMPLATE("kernels: dot, squared norm and largest magnitude against long double", T, float, double) {
  for (const Index n : {0, 1, 2, 15, 16, 17, 31, 33, 255, 1000, 2048}) {
    Random random(static_cast<std::uint64_t>(n) + 1);
    CAPTURE(n);
    const auto size = static_cast<std::size_t>(n);
    std::vector<T> a(size), b(size);
    Real magnitudes = 0;
    T largest = 0;
    for (std::size_t i = 0; i < size; ++i) {
      a[i] = static_cast<T>(random.normal());
      b[i] = static_cast<T>(random.normal());
      magnitudes += std::abs(static_cast<Real>(a[i]) * static_cast<Real>(b[i]));
      largest = std::max(largest, std::abs(a[i]));
    }
    double sums[2] = {};
    detail::run_best<detail::MeasureKernel<T, 1>>(detail::BasisColumns<T>{a.data(), n}, b.data(), n,
                                                  static_cast<double*>(sums));
    const double error = static_cast<double>(std::abs(static_cast<Real>(sums[0]) - exact_dot(a, b)));
    CHECK(error <= 8 * test::roundoff<T> * static_cast<double>(magnitudes));
    const double squares = static_cast<double>(exact_dot(a, a));
    CHECK(detail::squared_norm(a.data(), n) == doctest::Approx(squares).epsilon(1e-14));
    CHECK(detail::max_abs(a.data(), n) == largest);
  }
}

TEST_CASE("kernels: squared norms beyond the range of float") {
  const float zero = 0;
  for (const int exponent : {127, 64, 62, 0, -48, -50, -52, -63, -126, -148}) {
    CAPTURE(exponent);
    for (const Index n : {1, 17, 700}) {
      std::vector<float> x(static_cast<std::size_t>(n));
      Random random(static_cast<std::uint64_t>(n));
      for (auto& value : x) value = static_cast<float>(std::ldexp(1 + random.uniform(), exponent));
      const auto squares = exact_dot(x, x);
      double sums[2] = {};
      auto y = x;
      const detail::BasisColumns<float> columns{x.data(), n};
      detail::run_best<detail::MeasureKernel<float, 1>>(columns, x.data(), n, static_cast<double*>(sums));
      const double after = detail::run_best<detail::ChangeKernel<float, 1>>(1.0F, &zero, columns, y.data(), n);
      CHECK(y == x);
      const auto in_double = [&] { return detail::squared_norm(x.data(), n); };
      for (const double sum : {sums[1], after}) {
        const Real error = std::abs(static_cast<Real>(detail::squared_norm_or<float>(sum, n, in_double)) - squares);
        CHECK(error <= 16 * test::roundoff<float> * static_cast<double>(squares));
      }
    }
  }
}

TEST_CASE_TEMPLATE("kernels: every non-finite value is found at every position", S, float, double, bfloat16, float16) {
  for (const Index n : {1, 2, 17, 4095, 4096, 4097, 9000}) {
    std::vector<S> values(static_cast<std::size_t>(n), std::numeric_limits<S>::max());
    values[static_cast<std::size_t>(n / 2)] = std::numeric_limits<S>::denorm_min();
    CAPTURE(n);
    CHECK(detail::find_non_finite(values.data(), n) == -1);
    for (const S bad : bad_values<S>()) {
      for (const Index at : {Index(0), n / 3, n - 1}) {
        auto copy = values;
        copy[static_cast<std::size_t>(at)] = bad;
        if (at < n - 1) copy[static_cast<std::size_t>(n - 1)] = bad;  // the first one counts
        CHECK(detail::find_non_finite(copy.data(), n) == at);
      }
    }
  }
  CHECK(detail::find_non_finite(static_cast<const S*>(nullptr), 0) == -1);
}

TEST_CASE_TEMPLATE("kernels: values beyond a power of two", S, float, double, bfloat16, float16) {
  const int largest = std::is_same_v<S, float16> ? 15 : 120;
  for (const int exponent : {-10, 0, 3, largest}) {
    CAPTURE(exponent);
    std::vector<S> values(50, static_cast<S>(static_cast<float>(std::ldexp(0.99, exponent))));
    values[7] = static_cast<S>(0);
    CHECK(detail::find_beyond(values.data(), 50, exponent) == -1);
    for (const double x : {std::ldexp(1.0, exponent), -std::ldexp(1.9, exponent)}) {
      values[31] = static_cast<S>(static_cast<float>(x));
      CHECK(detail::find_beyond(values.data(), 50, exponent) == 31);
    }
    values[31] = std::numeric_limits<S>::quiet_NaN();
    CHECK(detail::find_beyond(values.data(), 50, exponent) == 31);
    CHECK(detail::find_beyond(values.data(), 50, 5000) == 31);
  }
}

TEST_CASE("kernels: half precision rounds to nearest, ties to even") {
  // Next to 1 the spacing of bfloat16 is 2^-7, of float16 2^-10.
  const float ties[] = {1 + 0x1p-8f, 1 + 3 * 0x1p-8f, 1 + 0x1p-11f, 1 + 3 * 0x1p-11f};
  bfloat16 b[2];
  float16 h[2];
  detail::convert(ties, b, 2);
  detail::convert(ties + 2, h, 2);
  CHECK(static_cast<float>(b[0]) == 1.0f);
  CHECK(static_cast<float>(b[1]) == 1 + 0x1p-6f);
  CHECK(static_cast<float>(h[0]) == 1.0f);
  CHECK(static_cast<float>(h[1]) == 1 + 0x1p-9f);
}

TEST_CASE("segments cover a range once, in order, whatever its size") {
  for (const Index size : {0, 1, 2047, 2048, 2049, 32767, 32768, 32769, 1000003, 100000000}) {
    CAPTURE(size);
    const auto segments = detail::row_segments(size);
    Index at = 0;
    for (Index s = 0; s < segments.count; ++s) {
      CHECK(segments.begin(s) == at);
      CHECK(segments.end(s) > at);
      at = segments.end(s);
    }
    CHECK(at == size);
    CHECK(segments.count <= 64);
  }
}

TEST_CASE("parallel_for runs every task once and throws what the first failing task threw") {
  std::vector<int> runs(1000, 0);
  detail::parallel_for(1000, [&](Index i) { ++runs[static_cast<std::size_t>(i)]; });
  CHECK(std::count(runs.begin(), runs.end(), 1) == 1000);
  const auto failing = [](Index i) {
    if (i % 7 == 5) throw std::runtime_error(std::to_string(i));
  };
  CHECK_THROWS_WITH(detail::parallel_for(100, failing), "5");
}

TEST_CASE_TEMPLATE("columns: largest magnitudes, and the first bad entry in column order", T, float, double) {
  const EigenBackend backend;
  for (const Index n : {1, 5, 2048, 40000, 100001}) {
    Random random(static_cast<std::uint64_t>(n));
    CAPTURE(n);
    const auto a = random.gaussian<T>(n, 3);
    const MatrixView<const T> columns(a.data(), n, 3);
    CHECK_FALSE(backend.first_non_finite(columns).found());
    const auto largest = backend.column_max_abs(columns);
    for (Index j = 0; j < 3; ++j) {
      CHECK(largest[static_cast<std::size_t>(j)] == static_cast<double>(a.col(j).cwiseAbs().maxCoeff()));
    }
    for (const T bad : bad_values<T>()) {
      auto b = a;
      const Index row = random.integer(0, n - 1);
      b(row, 1) = bad;
      b(n - 1, 1) = bad;
      b(0, 2) = bad;
      const Entry entry = backend.first_non_finite(MatrixView<const T>(b.data(), n, 3));
      CHECK(entry.col == 1);
      CHECK(entry.row == row);
    }
  }
}

TEST_CASE("views: spans, Eigen types, and sizes that do not fit") {
  std::vector<float> values(6);
  const TensorView vector{std::span<float>(values)};
  CHECK((vector.rows == 1 && vector.cols == 6 && vector.dtype == DType::float32));
  const TensorView matrix(std::span<float>(values), 2, 3);
  CHECK((matrix.fast() == 3 && matrix.slow() == 2));
  CHECK_THROWS_AS(TensorView(std::span<float>(values), 2, 4), InvalidArgument);
  CHECK_THROWS_AS(TensorView(std::span<float>(values), -2, -3), InvalidArgument);
  Eigen::MatrixXd columns(4, 2);
  CHECK((view(columns).layout == Layout::column_major && view(columns).fast() == 4));
  Eigen::Matrix<bfloat16, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> rows(4, 2);
  CHECK((view(rows).layout == Layout::row_major && view(rows).fast() == 2 && view(rows).dtype == DType::bfloat16));
  CHECK_THROWS_AS(visit_dtype(static_cast<DType>(17), [](auto*) { return 0; }), InvalidArgument);
}

}  // namespace test_kernels
