// This file is compiled with -O3 -ffast-math. The compiler then takes it that there is no NaN or infinity, so that
// checks for them must not rely on comparisons; and it may rearrange sums, those of this file as well: references here
// are volatile, or in long double.
#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <sstream>

#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;

namespace {

template <class E, class F>
bool throws(F&& call) {
  try {
    call();
  } catch (const E&) {
    return true;
  }
  return false;
}

template <class S>
S from_bits(std::uint64_t bits) {
  S value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class S>
std::vector<S> bad_values() {
  if constexpr (sizeof(S) == 8) return {from_bits<S>(0x7ff8000000000000u), from_bits<S>(0x7ff0000000000000u)};
  if constexpr (sizeof(S) == 4) return {from_bits<S>(0x7fc00000u), from_bits<S>(0xff800000u)};
}

template <class S>
bool same_bits(const S& a, const S& b) {
  return std::memcmp(&a, &b, sizeof a) == 0;
}

/// Normal numbers of many sizes, as `S`.
template <class S>
std::vector<S> weights(std::uint64_t seed, Index n) {
  test::Random random(seed);
  std::vector<S> values(static_cast<std::size_t>(n));
  for (auto& value : values)
    value = static_cast<S>(random.normal() * std::ldexp(1.0, static_cast<int>(random.integer(-6, 3))));
  return values;
}

}  // namespace

TEST_CASE_TEMPLATE("fast math: non-finite input is still found, and nothing is changed", S, float, double) {
  for (const S bad : bad_values<S>()) {
    for (const Form form : {Form::flat, Form::input, Form::both}) {
      CAPTURE(static_cast<int>(form));
      const std::vector<BlockSpec> blocks = {{.name = "w", .rows = 4, .cols = 5, .form = form}};
      Projector<S> projector(blocks);
      std::vector<S> g(20, S(1));
      g[7] = S(3);
      const auto refresh = [&] {
        auto collector = projector.begin_refresh();
        const ConstTensorView view(g.data(), dtype_of<S>(), 4, 5);
        collector.add(0, {&view, 1});
        projector.finish_refresh(std::move(collector), 0);
      };
      refresh();
      g[11] = bad;
      CHECK(throws<NonFiniteError>(refresh));
      const auto before = g;
      const TensorView view(g.data(), dtype_of<S>(), 4, 5);
      CHECK(throws<NonFiniteError>([&] { projector.project_gradients({&view, 1}); }));
      CHECK(std::memcmp(g.data(), before.data(), 20 * sizeof(S)) == 0);
    }
    HostMatrix<S> columns(6, 2);
    for (Index i = 0; i < 12; ++i) columns.data()[i] = static_cast<S>(i + i % 3);
    Subspace<S> subspace(6);
    subspace.replace(columns);
    CHECK(subspace.rank() == 2);
    columns.data()[8] = bad;
    CHECK(throws<NonFiniteError>([&] { subspace.replace(columns); }));
    CHECK(throws<NonFiniteError>([&] { subspace.append(columns); }));
    CHECK(subspace.rank() == 2);
  }
}

TEST_CASE_TEMPLATE("fast math: a weight that is not to move keeps its bits, another is rounded once", S, float, double,
                   bfloat16, float16) {
  const auto check = [](auto zero) {  // of the arithmetic type
    using T = decltype(zero);
    using Wide = std::conditional_t<std::is_same_v<S, double>, double, T>;
    constexpr Index n = 1000;
    const auto origin = weights<S>(1, n), before = weights<S>(2, n);
    auto x = before;
    std::vector<T> step(n);
    const ConstTensorView from(origin.data(), dtype_of<S>(), 1, n);
    detail::load_difference(ConstTensorView(x.data(), dtype_of<S>(), 1, n), from, 0, n, step.data());
    for (std::size_t i = 0; i < n; i += 3) step[i] *= T(0.75);
    detail::move(static_cast<const T*>(step.data()), n, TensorView(x.data(), dtype_of<S>(), 1, n), from, 0);
    for (std::size_t i = 0; i < n; ++i) {
      CAPTURE(i);
      if (i % 3 != 0) {
        CHECK(same_bits(x[i], before[i]));
        continue;
      }
      const volatile Wide difference = static_cast<Wide>(before[i]) - static_cast<Wide>(origin[i]);
      const volatile T taken = static_cast<T>(difference), change = step[i] - taken;
      const volatile Wide moved = static_cast<Wide>(before[i]) + static_cast<Wide>(change);
      CHECK(same_bits(x[i], static_cast<S>(moved)));
    }
  };
  check(0.0F);
  check(0.0);
}

TEST_CASE("fast math: subnormal weights that are not to move keep their bits") {
  std::vector<std::uint32_t> bits = {1, 77, 0x007fffff, 0x80000003}, before = bits, origin(4, 0);
  std::vector<float> step(4, 0.0F);
  detail::move(static_cast<const float*>(step.data()), 4, TensorView(bits.data(), DType::float32, 1, 4),
               ConstTensorView(origin.data(), DType::float32, 1, 4), 0);
  CHECK(bits == before);
}

TEST_CASE_TEMPLATE("fast math: the exact step against long double; weights outside the subspace keep their bits", S,
                   float, double, bfloat16) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  constexpr Index n = 5000, inside = 3001;  // the subspace has nothing beyond
  Projector<T> projector({{.name = "w", .cols = n}});
  std::vector<T> h = weights<T>(3, n);
  std::fill(h.begin() + inside, h.end(), T(0));
  auto collector = projector.begin_refresh();
  const ConstTensorView reference(h.data(), dtype_of<T>(), 1, n);
  collector.add(0, {&reference, 1});
  projector.finish_refresh(std::move(collector), 0);

  const auto origin = weights<S>(4, n), before = weights<S>(5, n);
  auto x = before;
  const ConstTensorView from(origin.data(), dtype_of<S>(), 1, n);
  const TensorView to(x.data(), dtype_of<S>(), 1, n);
  projector.project_weights({&from, 1}, {&to, 1});
  const auto real = [](auto value) {
    if constexpr (sizeof value == 2) return static_cast<long double>(static_cast<float>(value));
    return static_cast<long double>(value);
  };
  long double square = 0, inner = 0;
  for (std::size_t i = 0; i < n; ++i) {
    square += real(h[i]) * real(h[i]);
    inner += real(h[i]) * (real(before[i]) - real(origin[i]));
  }
  const double u = sizeof(S) == 2 ? 0x1p-8 : test::roundoff<T>;
  for (std::size_t i = 0; i < n; ++i) {
    CAPTURE(i);
    if (i >= inside) CHECK(same_bits(x[i], before[i]));
    const long double wanted = real(before[i]) - inner / square * real(h[i]);
    CHECK(std::abs(static_cast<double>(real(x[i]) - wanted)) <= 2 * u * (10 + std::abs(static_cast<double>(wanted))));
  }
}

TEST_CASE("fast math: bfloat16 that is changed where it lies keeps a NaN") {
  std::vector<float> q(64, 0.0F);
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = from_bits<float>(i % 2 == 0 ? 0x7fffffffu : 0xffffffffu);
  std::vector<bfloat16> x(q.size(), static_cast<bfloat16>(1.0F));
  const float c = 1;
  detail::run_best<detail::ChangeKernel<float, 1, float, bfloat16>>(1.0F, &c, detail::BasisColumns<float>{q.data(), 64},
                                                                    x.data(), Index{64});
  for (const bfloat16 value : x) {
    std::uint16_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    CHECK((bits & 0x7fff) > 0x7f80);
  }
}

TEST_CASE("fast math: a compensated sum is one") {
  detail::CompensatedSum sum(1, 1);
  Eigen::MatrixXd part(1, 1);
  const long double wanted = 50000 * (1e6L + static_cast<long double>(0.1));
  for (int i = 0; i < 100000; ++i) {
    part(0, 0) = i % 2 == 0 ? 1e6 : 0.1;
    sum.add(part);
  }
  const double found = sum.value()(0, 0);
  CHECK(std::abs(static_cast<double>(found - wanted)) <= 0x1p-52 * found);
}

TEST_CASE("fast math: eigenvalues of a matrix whose squares leave the range of double") {
  Eigen::MatrixXd a = Eigen::MatrixXd::Zero(40, 40), vectors(40, 40);
  for (Index i = 0; i < 40; ++i) a(i, i) = std::pow(10.0, -static_cast<double>(6 * i));
  for (Index i = 0; i + 1 < 40; ++i) a(i + 1, i) = 0.1 * std::sqrt(a(i, i) * a(i + 1, i + 1));
  const EigenProblem<double> problem{{a.data(), 40, 40}, {vectors.data(), 40, 40}};
  const auto values = EigenBackend().eigenvectors(std::span(&problem, 1)).front();
  CHECK(std::abs(values.sum() - a.trace()) <= 1e-14);
  const Eigen::MatrixXd gram = vectors.transpose() * vectors;
  CHECK((gram - Eigen::MatrixXd::Identity(40, 40)).cwiseAbs().maxCoeff() <= 1e-14);
}

TEST_CASE("fast math: eigenvectors of a covariance whose eigenvalues are close together") {
  constexpr Index n = 200;
  test::Random random(9);
  const Eigen::MatrixXd x = random.gaussian(n, n);
  const Eigen::MatrixXd a = 1e-7 * (x * x.transpose()) + Eigen::MatrixXd::Identity(n, n);
  Eigen::MatrixXd vectors(n, n);
  const EigenProblem<double> problem{{a.data(), n, n}, {vectors.data(), n, n}};
  const auto values = EigenBackend().eigenvectors(std::span(&problem, 1)).front();
  CHECK((a * vectors - vectors * values.asDiagonal()).norm() <= 1e-13 * a.norm());
  const Eigen::MatrixXd gram = vectors.transpose() * vectors;
  CHECK((gram - Eigen::MatrixXd::Identity(n, n)).cwiseAbs().maxCoeff() <= 1e-13);
}

TEST_CASE("fast math: options that are NaN are refused") {
  const double nan = bad_values<double>()[0];
  const auto refused = [](ProjectorOptions options) {
    return throws<InvalidArgument>([&] { Projector<float>({{.name = "w", .cols = 4}}, options); });
  };
  CHECK_FALSE(refused({}));
  CHECK(refused({.forgetting = nan}));
  CHECK(refused({.projection = {.alpha = nan}}));
  CHECK(refused({.projection = {.scale = nan}}));
  CHECK(refused({.reference = {.rank = {.max_share = nan}}}));
  CHECK(refused({.reference = {.rank = {.energy = nan}}}));
  CHECK(refused({.reference = {.rank = {.relative_tolerance = nan}}}));
  CHECK(refused({.reference = {.structured = {.damping = nan}}}));
}

TEST_CASE("fast math: JSON holds null for what it cannot hold") {
  CHECK(detail::json_number(bad_values<double>()[0]) == "null");
  CHECK(detail::json_number(bad_values<double>()[1]) == "null");
}
