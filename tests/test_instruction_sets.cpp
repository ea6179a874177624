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

/// Columns of random elements, kept as S, and what each is as a number.
template <class T, class S>
struct RandomColumns {
  RandomColumns(Index stride, Index columns, Random& random)
      : data(random_values<S>(stride * columns, random)), stride(stride), scales(random_values<float>(stride, random)) {
    if constexpr (std::is_same_v<S, std::int8_t>) {
      for (auto& x : data) x = static_cast<std::int8_t>(random.integer(-127, 127));
      for (auto& scale : scales) scale = static_cast<float>(static_cast<bfloat16>(scale));
    }
  }
  Index scale_stride() const { return stride / kScaleBlock + 1; }
  detail::BasisColumns<T, S> view() const {
    if constexpr (std::is_same_v<S, std::int8_t>) {
      return {data.data(), stride, scales.data(), scale_stride()};
    } else {
      return {data.data(), stride};
    }
  }
  Real value(Index k, Index i) const {
    const S x = data[static_cast<std::size_t>(k * stride + i)];
    if constexpr (std::is_same_v<S, std::int8_t>) {
      return static_cast<Real>(x) * static_cast<Real>(scales[static_cast<std::size_t>(k * scale_stride() + i / 64)]);
    } else if constexpr (sizeof(S) == 2) {
      return static_cast<Real>(std::bit_cast<float>(static_cast<std::uint32_t>(std::bit_cast<std::uint16_t>(x)) << 16));
    } else {
      return static_cast<Real>(x);
    }
  }

  std::vector<S> data;
  Index stride;
  std::vector<float> scales;
};

template <class T, int K, class S>
void check_measure_and_change(detail::InstructionSet set, Index n) {
  CAPTURE(n);
  CAPTURE(K);
  Random random(static_cast<std::uint64_t>(n * 10 + K));
  const RandomColumns<T, S> q(n + 3, K, random);
  const auto x = random_values<T>(n, random), c = random_values<T>(K + 1, random);
  std::vector<double> sums(K + 1, 0.0);
  detail::run_with<detail::MeasureKernel<T, K, S>>(set, q.view(), x.data(), n, sums.data());
  auto y = x;
  const double square = detail::run_with<detail::ChangeKernel<T, K, S>>(set, T(0.75), c.data(), q.view(), y.data(), n);
  Real squares = 0, squares_after = 0;
  std::vector<Real> products(K, 0), magnitudes(K, 0);
  for (std::size_t i = 0; i < x.size(); ++i) {
    squares += static_cast<Real>(x[i]) * static_cast<Real>(x[i]);
    Real expected = static_cast<Real>(0.75) * static_cast<Real>(x[i]), magnitude = std::abs(expected);
    for (std::size_t k = 0; k < K; ++k) {
      const Real element = q.value(static_cast<Index>(k), static_cast<Index>(i));
      const Real product = element * static_cast<Real>(x[i]);
      products[k] += product;
      magnitudes[k] += std::abs(product);
      const Real removed = static_cast<Real>(c[k]) * element;
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
  CHECK(sums[K] == doctest::Approx(static_cast<double>(squares)).epsilon(16 * test::roundoff<T>));
  CHECK(square == doctest::Approx(static_cast<double>(squares_after)).epsilon(16 * test::roundoff<T>));
}

/// Elements kept as bfloat16 against the same as float, which Eigen rounds: equal to the bit, NaN and infinity among
/// them.
template <int K, class S>
void check_bfloat16_elements(detail::InstructionSet set, Index n) {
  CAPTURE(n);
  CAPTURE(K);
  Random random(static_cast<std::uint64_t>(n * 10 + K));
  const RandomColumns<float, S> q(n + 3, K, random);
  const auto c = random_values<float>(K, random);
  auto x = random_values<bfloat16>(n, random);
  std::vector<float> wide(x.begin(), x.end());
  std::vector<double> sums(K + 1, 0.0), expected_sums(K + 1, 0.0);
  detail::run_with<detail::MeasureKernel<float, K, S, bfloat16>>(set, q.view(), x.data(), n, sums.data());
  detail::run_with<detail::MeasureKernel<float, K, S>>(set, q.view(), wide.data(), n, expected_sums.data());
  CHECK(sums == expected_sums);
  const auto change = [&] {
    return std::pair(
        detail::run_with<detail::ChangeKernel<float, K, S, bfloat16>>(set, 0.75F, c.data(), q.view(), x.data(), n),
        detail::run_with<detail::ChangeKernel<float, K, S>>(set, 0.75F, c.data(), q.view(), wide.data(), n));
  };
  const auto [square, expected_square] = change();
  CHECK(square == expected_square);
  for (Index i = 0; i < n; i += 7) {  // numbers of all kinds, NaN of either sign among them
    x[static_cast<std::size_t>(i)] = std::bit_cast<bfloat16>(static_cast<std::uint16_t>(i * 40503));
  }
  std::copy(x.begin(), x.end(), wide.begin());
  change();
  Index wrong = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    wrong += std::bit_cast<std::uint16_t>(x[i]) != std::bit_cast<std::uint16_t>(static_cast<bfloat16>(wide[i]));
  }
  CHECK(wrong == 0);
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
      check_measure_and_change<T, 1, T>(set, n);
      check_measure_and_change<T, 2, T>(set, n);
      check_measure_and_change<T, 4, T>(set, n);
      if constexpr (std::is_same_v<T, float>) {
        check_measure_and_change<T, 1, bfloat16>(set, n);
        check_measure_and_change<T, 2, bfloat16>(set, n);
        check_measure_and_change<T, 4, bfloat16>(set, n);
        check_measure_and_change<T, 1, std::int8_t>(set, n);
        check_measure_and_change<T, 2, std::int8_t>(set, n);
        check_measure_and_change<T, 4, std::int8_t>(set, n);
      }
    }
  }
}

TEST_CASE("instruction sets: measuring and changing bfloat16 where it lies") {
  for (const auto set : instruction_sets()) {
    CAPTURE(static_cast<int>(set));
    for (const Index n : {0, 1, 15, 16, 17, 33, 511, 512, 529, 2048}) {
      check_bfloat16_elements<1, float>(set, n);
      check_bfloat16_elements<2, bfloat16>(set, n);
      check_bfloat16_elements<4, float>(set, n);
      check_bfloat16_elements<4, std::int8_t>(set, n);
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

TEST_CASE("instruction sets: a column rounded to int8, and read again") {
  for (const auto set : instruction_sets()) {
    CAPTURE(static_cast<int>(set));
    for (const Index n : {1, 15, 63, 64, 65, 200, 2048}) {
      CAPTURE(n);
      Random random(static_cast<std::uint64_t>(n));
      auto x = random_values<float>(n, random);
      for (Index i = 64; i < std::min<Index>(n, 128); ++i) x[static_cast<std::size_t>(i)] = 0;  // a block of zeros
      const auto blocks = static_cast<std::size_t>((n + 63) / 64);
      std::vector<std::int8_t> rounded(x.size());
      std::vector<float> scales(blocks), back(x.size());
      detail::run_with<detail::EncodeKernel>(set, static_cast<const float*>(x.data()), n, rounded.data(),
                                             scales.data());
      using Columns = detail::BasisColumns<float, std::int8_t>;
      detail::run_with<detail::DecodeKernel>(set, Columns{rounded.data(), n, scales.data(), 0}, back.data(), n);
      for (std::size_t b = 0; b < blocks; ++b) {
        CHECK((std::bit_cast<std::uint32_t>(scales[b]) & 0xff) == 0);  // so that products are exact
        int largest = 0;
        for (std::size_t i = 64 * b; i < std::min(x.size(), 64 * (b + 1)); ++i) {
          largest = std::max(largest, std::abs(rounded[i]));
          CHECK(std::abs(static_cast<Real>(x[i]) - static_cast<Real>(back[i])) <= 0.50001 * scales[b]);
          CHECK(static_cast<Real>(back[i]) == static_cast<Real>(rounded[i]) * static_cast<Real>(scales[b]));
        }
        CHECK(largest == (b == 1 ? 0 : 127));
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
        const auto high = static_cast<std::uint16_t>(i * 40503);  // an odd factor: NaNs stand among other values
        wide[i] = std::bit_cast<float>(static_cast<std::uint32_t>(high) << 16 | low);
      }
      // Whole chunks, whole vectors and the rest; pieces that begin with or without a NaN.
      Index begin = 0;
      for (const Index n : {1, 7, 15, 16, 33, 255, 300, 511, 65536 - 1138}) {
        detail::run_with<detail::ConvertKernel<float, bfloat16>>(set, wide.data() + begin, back.data() + begin, n);
        begin += n;
      }
      REQUIRE(begin == 65536);
      for (std::size_t i = 0; i < wide.size(); ++i) {
        const auto expected = static_cast<bfloat16>(wide[i]);
        wrong += std::bit_cast<std::uint16_t>(back[i]) != std::bit_cast<std::uint16_t>(expected);
      }
    }
    CHECK(wrong == 0);
  }
}

}  // namespace test_instruction_sets
