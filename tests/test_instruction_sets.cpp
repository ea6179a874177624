#include <doctest/doctest.h>

#include <bit>
#include <cstring>
#include <limits>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_instruction_sets {
namespace {

/// All that this processor has.
std::vector<detail::InstructionSet> instruction_sets() {
  std::vector<detail::InstructionSet> sets;
  for (int set = 0; set <= static_cast<int>(detail::best_instruction_set()); ++set) {
    sets.push_back(static_cast<detail::InstructionSet>(set));
  }
  return sets;
}

template <class T>
std::vector<T> random_values(Index n, Random& random) {
  std::vector<T> values(static_cast<std::size_t>(n));
  for (auto& value : values) value = static_cast<T>(random.normal());
  return values;
}

template <class T, int K>
void check_measure_and_change(detail::InstructionSet set, Index n) {
  CAPTURE(n);
  CAPTURE(K);
  Random random(static_cast<std::uint64_t>(n * 10 + K));
  const Index stride = n + 3;
  const auto q = random_values<T>(stride * K, random), x = random_values<T>(n, random);
  const auto c = random_values<T>(K + 1, random);
  std::vector<double> sums(K + 1, 0.0);
  detail::run_with<detail::MeasureKernel<T, K>>(set, q.data(), stride, x.data(), n, sums.data());
  std::vector<T> y(static_cast<std::size_t>(n));
  const double square =
      detail::run_with<detail::ChangeKernel<T, K>>(set, T(0.75), c.data(), q.data(), stride, x.data(), y.data(), n);
  Real squares = 0, squares_after = 0;
  std::vector<Real> products(K, 0), magnitudes(K, 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    squares += static_cast<Real>(x[i]) * static_cast<Real>(x[i]);
    Real expected = static_cast<Real>(0.75) * static_cast<Real>(x[i]), magnitude = std::abs(expected);
    for (std::size_t k = 0; k < K; ++k) {
      const Real product = static_cast<Real>(q[k * static_cast<std::size_t>(stride) + i]) * static_cast<Real>(x[i]);
      products[k] += product;
      magnitudes[k] += std::abs(product);
      const Real removed = static_cast<Real>(c[k]) * static_cast<Real>(q[k * static_cast<std::size_t>(stride) + i]);
      expected -= removed;
      magnitude += std::abs(removed);
    }
    squares_after += static_cast<Real>(y[i]) * static_cast<Real>(y[i]);
    CHECK(std::abs(static_cast<Real>(y[i]) - expected) <= (K + 1) * test::roundoff<T> * static_cast<double>(magnitude));
  }
  for (std::size_t k = 0; k < K; ++k) {
    CHECK(std::abs(static_cast<Real>(sums[k]) - products[k]) <=
          8 * test::roundoff<T> * static_cast<double>(magnitudes[k]));
  }
  CHECK(sums[K] == doctest::Approx(static_cast<double>(squares)).epsilon(1e-14));
  CHECK(square == doctest::Approx(static_cast<double>(squares_after)).epsilon(1e-14));
}

/// C += alpha A B against long double, with operands in either order and C wider than it need be.
template <class T, class S>
void check_gemm(detail::InstructionSet set, Index m, Index n, Index k, bool rows_a, bool rows_b) {
  CAPTURE(m);
  CAPTURE(n);
  CAPTURE(k);
  Random random(static_cast<std::uint64_t>(m * 1000 + n * 100 + k));
  const auto a = random_values<T>(m * k, random), b = random_values<T>(k * n, random);
  auto c = random_values<S>((m + 2) * n, random);
  const auto before = c;
  detail::GemmTask<T> task = {.m = m,
                              .n = n,
                              .k = k,
                              .alpha = -0.5,
                              .a = {a.data(), rows_a ? k : 1, rows_a ? 1 : m},
                              .b = {b.data(), rows_b ? n : 1, rows_b ? 1 : k},
                              .c = nullptr,
                              .wide_c = nullptr,
                              .stride = m + 2,
                              .packed_a = nullptr,
                              .packed_b = nullptr};
  if constexpr (std::is_same_v<S, T>) {
    task.c = c.data();
  } else {
    task.wide_c = c.data();
  }
  using Kernel = detail::GemmKernel<T>;
  const detail::HostBuffer<T> packed_a(Kernel::packed_a_size(task)), packed_b(Kernel::packed_b_size(task));
  task.packed_a = packed_a.data();
  task.packed_b = packed_b.data();
  detail::run_with<Kernel>(set, static_cast<const detail::GemmTask<T>*>(&task));
  double worst = 0;
  for (Index j = 0; j < n; ++j) {
    for (Index i = 0; i < m; ++i) {
      Real sum = static_cast<Real>(before[static_cast<std::size_t>(i + j * (m + 2))]), magnitude = std::abs(sum);
      for (Index p = 0; p < k; ++p) {
        const Real product = static_cast<Real>(a[static_cast<std::size_t>(rows_a ? i * k + p : i + p * m)]) *
                             static_cast<Real>(b[static_cast<std::size_t>(rows_b ? p * n + j : p + j * k)]);
        sum -= product / 2;
        magnitude += std::abs(product) / 2;
      }
      const Real error = std::abs(static_cast<Real>(c[static_cast<std::size_t>(i + j * (m + 2))]) - sum);
      worst = std::max(worst, static_cast<double>(error / magnitude));
    }
    for (Index i = m; i < m + 2; ++i) {  // what lies between the columns is not ours
      const auto at = static_cast<std::size_t>(i + j * (m + 2));
      CHECK(c[at] == before[at]);
    }
  }
  CHECK(worst <= 16 * test::roundoff<T>);
}

}  // namespace

TEST_CASE_TEMPLATE("instruction sets: measuring and changing a vector against long double", T, float, double) {
  for (const auto set : instruction_sets()) {
    CAPTURE(static_cast<int>(set));
    for (const Index n : {0, 1, 15, 16, 17, 33, 511, 512, 529, 2048}) {
      check_measure_and_change<T, 1>(set, n);
      check_measure_and_change<T, 2>(set, n);
      check_measure_and_change<T, 4>(set, n);
    }
  }
}

TEST_CASE_TEMPLATE("instruction sets: matrix products against long double", T, float, double) {
  for (const auto set : instruction_sets()) {
    CAPTURE(static_cast<int>(set));
    for (const bool rows_a : {false, true}) {
      for (const bool rows_b : {false, true}) {
        check_gemm<T, T>(set, 1, 1, 1, rows_a, rows_b);
        check_gemm<T, double>(set, 33, 13, 65, rows_a, rows_b);
        check_gemm<T, T>(set, 16, 12, 64, rows_a, rows_b);
        check_gemm<T, double>(set, 200, 31, 7, rows_a, rows_b);
        check_gemm<T, T>(set, 31, 400, 3, rows_a, rows_b);
        check_gemm<T, double>(set, 5, 3, 1500, rows_a, rows_b);
      }
    }
  }
}

TEST_CASE("instruction sets: bfloat16 to float and back, all values and all ways to round") {
  for (const auto set : instruction_sets()) {
    CAPTURE(static_cast<int>(set));
    std::vector<bfloat16> all(65536), back(65536);
    std::vector<float> wide(65536);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = std::bit_cast<bfloat16>(static_cast<std::uint16_t>(i));
    detail::run_with<detail::ConvertKernel<bfloat16, float>>(set, all.data(), wide.data(), Index{65536});
    Index wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      wrong += std::bit_cast<std::uint32_t>(wide[i]) != static_cast<std::uint32_t>(i) << 16;
    }
    for (const std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      for (std::size_t i = 0; i < wide.size(); ++i) {
        wide[i] = std::bit_cast<float>(static_cast<std::uint32_t>(i) << 16 | low);
      }
      detail::run_with<detail::ConvertKernel<float, bfloat16>>(set, wide.data(), back.data(), Index{65536});
      for (std::size_t i = 0; i < wide.size(); ++i) {
        const auto expected = static_cast<bfloat16>(wide[i]);
        wrong += std::bit_cast<std::uint16_t>(back[i]) != std::bit_cast<std::uint16_t>(expected);
      }
    }
    CHECK(wrong == 0);
  }
}

}  // namespace test_instruction_sets
