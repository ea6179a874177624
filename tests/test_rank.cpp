#include <doctest/doctest.h>

#include "ogpsa/rank.hpp"
#include "random.hpp"

using namespace ogpsa;

namespace test_rank {
namespace {

/// The definition, read word by word: the largest k that every limit allows.
Index brute_force_rank(const Eigen::VectorXd& s, Index dimension, double tolerance, const RankOptions& o) {
  if (s.size() == 0 || s(0) == 0) return 0;
  const double threshold = o.relative_tolerance < 0 ? tolerance : o.relative_tolerance;
  Index rank = 0;
  for (Index i = 0; i < s.size(); ++i) rank += s(i) > threshold * s(0);
  Index needed = s.size();
  for (Index k = s.size(); k >= 1; --k) {
    if (o.energy < 1 && s.head(k).squaredNorm() >= o.energy * s.squaredNorm()) needed = k;
  }
  rank = std::min(rank, needed);
  Index share = dimension;
  while (share > 1 && static_cast<double>(share - 1) >= o.max_share * static_cast<double>(dimension) - 1e-9) --share;
  rank = std::min(rank, share);
  return o.max_rank > 0 ? std::min(rank, o.max_rank) : rank;
}

}  // namespace

TEST_CASE("rank: every combination of limits against the definition") {
  for (int round = 0; round < 2000; ++round) {
    test::Random random(static_cast<std::uint64_t>(round));
    CAPTURE(round);
    const Index count = random.integer(0, 12), dimension = random.integer(std::max<Index>(count, 1), 60);
    Eigen::VectorXd s(count);
    for (Index i = 0; i < count; ++i) s(i) = std::exp(4 * random.normal()) * (random.integer(0, 5) > 0);
    std::sort(s.data(), s.data() + count, std::greater<>());
    RankOptions options;
    if (random.integer(0, 1)) options.max_rank = random.integer(0, 8);
    if (random.integer(0, 1)) options.max_share = 1 - random.uniform();
    if (random.integer(0, 1)) options.energy = 1 - random.uniform();
    if (random.integer(0, 1)) options.relative_tolerance = random.uniform() * (random.integer(0, 1) ? 1 : 1e-4);
    CHECK(select_rank(s, dimension, 1e-7, options) == brute_force_rank(s, dimension, 1e-7, options));
  }
}

TEST_CASE("rank: closed forms") {
  const Eigen::Vector4d s(4, 3, 2, 1);  // squares 16, 9, 4, 1 of 30
  CHECK(select_rank(s, 100, 1e-7, {}) == 4);
  CHECK(select_rank(s, 100, 1e-7, {.energy = 16.0 / 30 - 1e-12}) == 1);
  CHECK(select_rank(s, 100, 1e-7, {.energy = 16.0 / 30 + 1e-12}) == 2);
  CHECK(select_rank(s, 100, 1e-7, {.energy = 25.0 / 30 + 1e-12}) == 3);
  CHECK(select_rank(s, 100, 1e-7, {.relative_tolerance = 0.5}) == 2);  // at the tolerance: dropped
  CHECK(select_rank(s, 10, 1e-7, {.max_share = 0.3}) == 3);
  CHECK(select_rank(s, 10, 1e-7, {.max_share = 0.21}) == 3);
  CHECK(select_rank(s, 4, 1e-7, {.max_share = 1e-9}) == 1);
  CHECK(select_rank(s, 100, 1e-7, {.max_rank = 3, .max_share = 0.02, .energy = 0.99}) == 2);
  CHECK(select_rank(Eigen::Vector3d::Zero(), 100, 1e-7, {}) == 0);
  CHECK(select_rank(Eigen::VectorXd(0), 0, 1e-7, {}) == 0);
  // Squares far outside of the range of double.
  CHECK(select_rank(Eigen::Vector3d(1e200, 1e200, 1e199), 9, 1e-7, {.energy = 0.999}) == 3);
  CHECK(select_rank(Eigen::Vector3d(1e-200, 1e-200, 1e-201), 9, 1e-7, {.energy = 0.99}) == 2);
}

TEST_CASE("rank: options outside their range") {
  const double nan = std::nan("");
  for (const RankOptions& bad :
       {RankOptions{.max_rank = -1}, RankOptions{.max_share = 0}, RankOptions{.max_share = 1.1},
        RankOptions{.max_share = nan}, RankOptions{.energy = 0}, RankOptions{.energy = 1.01},
        RankOptions{.energy = nan}, RankOptions{.relative_tolerance = 1}, RankOptions{.relative_tolerance = nan}}) {
    CHECK_THROWS_AS(check(bad), InvalidArgument);
  }
}

}  // namespace test_rank
