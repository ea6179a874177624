#include <doctest/doctest.h>

#include <atomic>
#include <barrier>
#include <optional>
#include <thread>

#include "exact.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"

using namespace ogpsa;
using test::Random;

namespace test_sharded {
namespace {

/// Sums a buffer over threads that stand for the ranks of a sharded run.
class Ranks {
 public:
  explicit Ranks(std::size_t count) : barrier_(static_cast<std::ptrdiff_t>(count)), buffers_(count) {}

  void sum(std::size_t rank, std::span<double> buffer) {
    buffers_[rank].assign(buffer.begin(), buffer.end());
    barrier_.arrive_and_wait();
    std::fill(buffer.begin(), buffer.end(), 0.0);
    bool same_size = true;
    for (const auto& other : buffers_) {
      same_size = same_size && other.size() == buffer.size();
      for (std::size_t i = 0; i < std::min(buffer.size(), other.size()); ++i) buffer[i] += other[i];
    }
    if (!same_size) mismatch_ = true;
    barrier_.arrive_and_wait();
  }
  bool mismatch() const { return mismatch_; }

 private:
  std::barrier<> barrier_;
  std::vector<std::vector<double>> buffers_;
  std::atomic<bool> mismatch_ = false;
};

}  // namespace

TEST_CASE_TEMPLATE("sharded: each rank holds half of the rows, and sums give what one rank would", T, float, double) {
  for (const double scale : {1.0, std::is_same_v<T, float> ? 1e-30 : 1e-200}) {
    CAPTURE(scale);
    Random random(1);
    const Index n = 60, half = 30;
    const test::Matrix<T> h = (random.gaussian(n, 3) * scale).template cast<T>();
    const test::Vector<T> g = random.gaussian<T>(n, 1);
    const auto whole = estimate(h);
    test::Vector<T> expected = g;
    const auto whole_result = project(expected, whole);

    Ranks ranks(2);
    std::vector<test::MatrixL> bases(2);
    std::vector<test::Vector<T>> gradients(2);
    std::vector<ProjectionResult> results(2);
    std::vector<Eigen::VectorXd> values(2);
    std::vector<std::thread> threads;
    for (const std::size_t rank : {0, 1}) {
      threads.emplace_back([&, rank] {
        const EigenBackend backend([&](std::span<double> sums) { ranks.sum(rank, sums); });
        const Index first = static_cast<Index>(rank) * half;
        const test::Matrix<T> mine = h.middleRows(first, half);
        const auto subspace = estimate(MatrixView<const T>(mine.data(), half, 3), {}, {}, backend);
        bases[rank] = test::exact(subspace.basis());
        values[rank] = subspace.singular_values();
        gradients[rank] = g.segment(first, half);
        results[rank] = project(gradients[rank], subspace);
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK_FALSE(ranks.mismatch());
    REQUIRE(bases[0].cols() == 3);
    test::MatrixL both(n, 3);
    both << bases[0], bases[1];
    CHECK(test::orthonormality_error(both) <= 16 * test::roundoff<T>);
    CHECK(test::sine_of_angle(test::exact(whole.basis()), both) <= 32 * test::roundoff<T>);
    CHECK((values[0] - whole.singular_values()).norm() <= 32 * test::roundoff<T> * whole.singular_values().norm());
    test::VectorL found(n);
    found << test::exact(gradients[0]), test::exact(gradients[1]);
    CHECK((found - test::exact(expected)).norm() <= 32 * test::roundoff<T> * test::exact(g).norm());
    for (const auto& result : results) {
      CHECK(result.norm_before == doctest::Approx(whole_result.norm_before));
      CHECK(result.norm_inside == doctest::Approx(whole_result.norm_inside));
    }
  }
}

TEST_CASE("sharded: refreshes of many blocks ask for their sums in one order on every rank, and not for each block") {
  const Index n = 40, half = 20, blocks = 9;
  Random random(2);
  std::vector<std::vector<test::Vector<float>>> h(4);
  for (auto& reference : h) {
    for (Index b = 0; b < blocks; ++b) reference.push_back(random.gaussian<float>(n, 1));
  }
  const auto make = [&](Index size, EigenBackend backend) {
    std::vector<BlockSpec> specs;
    for (Index b = 0; b < blocks; ++b) specs.push_back({.name = "b" + std::to_string(b), .cols = size});
    return Projector<float>(specs, {.policy = RefreshPolicy::streaming, .reference = {.rank = {.max_rank = 3}}},
                            backend);
  };
  // Two refreshes, of two objectives each: an estimate, and an update.
  const auto refresh = [&](Projector<float>& projector, Index first, Index size) {
    for (const std::size_t at : {0, 2}) {
      auto collector = projector.begin_refresh();
      for (const std::size_t objective : {0, 1}) {
        std::vector<ConstTensorView> views;
        for (auto& block : h[at + objective]) views.push_back({block.data() + first, DType::float32, 1, size});
        collector.add(static_cast<Index>(objective), views);
      }
      projector.finish_refresh(std::move(collector), static_cast<Index>(at));
    }
  };
  auto whole = make(n, {});
  refresh(whole, 0, n);

  Ranks ranks(2);
  std::vector<std::atomic<int>> sums(2);
  std::vector<std::optional<Projector<float>>> parts(2);
  std::vector<std::thread> threads;
  for (const std::size_t rank : {0, 1}) {
    threads.emplace_back([&, rank] {
      parts[rank].emplace(make(half, EigenBackend([&, rank](std::span<double> values) {
                                 ++sums[rank];
                                 ranks.sum(rank, values);
                               })));
      refresh(*parts[rank], static_cast<Index>(rank) * half, half);
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK_FALSE(ranks.mismatch());
  CHECK(sums[0] <= 8);  // a refresh measures, and makes the bases; nothing was ill-conditioned
  for (Index b = 0; b < blocks; ++b) {
    const std::string name = "b" + std::to_string(b);
    test::MatrixL both(n, parts[0]->subspace(name).rank());
    both << test::exact(parts[0]->subspace(name).basis()), test::exact(parts[1]->subspace(name).basis());
    REQUIRE(both.cols() == whole.subspace(name).rank());
    CHECK(test::orthonormality_error(both) <= 16 * test::roundoff<float>);
    CHECK(test::sine_of_angle(test::exact(whole.subspace(name).basis()), both) <= 64 * test::roundoff<float>);
  }
}

}  // namespace test_sharded
