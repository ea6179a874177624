#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <memory>

#include "ogpsa/backend/cuda/capture.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"
#include "support.hpp"

using namespace ogpsa;
using test::DeviceTensor;
using test::Random;

namespace test_page_locked {
namespace {

template <class T>
using P = Projector<T, CudaBackend>;

/// Of all sizes: such as fit the cache, and such as do not; one whose basis alone is larger than a part of the memory
/// that they pass through.
const std::vector<BlockSpec> blocks = {{.name = "a", .rows = 30, .cols = 100},
                                       {.name = "large", .cols = 150000},
                                       {.name = "b", .cols = 7},
                                       {.name = "c", .cols = 40000},
                                       {.name = "d", .cols = 39999},
                                       {.name = "e", .cols = 20000},
                                       {.name = "f", .rows = 20, .cols = 30, .form = Form::input}};

template <class S>
struct Model {
  std::vector<std::unique_ptr<DeviceTensor<S>>> tensors;
  std::vector<TensorView> views;

  explicit Model(std::uint64_t seed) {
    Random random(seed), common(99);  // what is common makes a projection by one change the others
    for (const auto& block : blocks) {
      std::vector<S> values;
      for (Index i = 0; i < block.size(); ++i) values.push_back(static_cast<S>(random.normal() + common.normal()));
      tensors.push_back(std::make_unique<DeviceTensor<S>>(values, block.rows));
      views.push_back(tensors.back()->view());
    }
  }
  /// Of the first blocks, those of a projector.
  template <class T>
  std::vector<TensorView> of(const P<T>& projector) const {
    return {views.begin(), views.begin() + static_cast<std::ptrdiff_t>(projector.blocks().size())};
  }
  template <class T>
  std::vector<ConstTensorView> references(const P<T>& projector) const {
    const auto some = of(projector);
    return {some.begin(), some.end()};
  }
  std::vector<std::vector<S>> values() const {
    std::vector<std::vector<S>> result;
    for (const auto& tensor : tensors) result.push_back(tensor->values());
    return result;
  }
};

template <class T>
void refresh(P<T>& projector, std::uint64_t seed, Index step = 0) {
  auto collector = projector.begin_refresh();
  for (Index objective = 0; objective < 3; ++objective) {
    collector.add(objective, Model<T>(seed + static_cast<std::uint64_t>(objective)).references(projector));
  }
  projector.finish_refresh(std::move(collector), step);
}

template <class T, class S>
std::vector<std::vector<S>> projected(const P<T>& projector, std::uint64_t seed = 50) {
  const Model<S> gradient(seed);
  projector.project_gradients(gradient.of(projector));
  return gradient.values();
}

/// Norm of a - b for each block, relative to that of b.
template <class S>
std::vector<double> distances(const std::vector<std::vector<S>>& a, const std::vector<std::vector<S>>& b) {
  std::vector<double> result;
  for (std::size_t i = 0; i < b.size(); ++i) {
    double difference = 0, norm = 0;
    for (std::size_t j = 0; j < b[i].size(); ++j) {
      const auto x = static_cast<double>(a[i][j]), y = static_cast<double>(b[i][j]);
      difference += (x - y) * (x - y);
      norm += y * y;
    }
    result.push_back(std::sqrt(difference / norm));
  }
  return result;
}
template <class S>
double furthest(const std::vector<std::vector<S>>& a, const std::vector<std::vector<S>>& b) {
  const auto all = distances(a, b);
  return *std::max_element(all.begin(), all.end());
}
template <class S>
double nearest(const std::vector<std::vector<S>>& a, const std::vector<std::vector<S>>& b) {
  const auto all = distances(a, b);
  return *std::min_element(all.begin(), all.end());
}

ProjectorOptions page_locked(ProjectorOptions options = {}) {
  options.basis_storage = BasisStorage::page_locked;
  return options;
}
const CudaOptions kSmallParts = {.staging_bytes = 600'000};

}  // namespace

TEST_CASE_TEMPLATE("page-locked: projects as bases on the device do, copied early or late", S, float, double,
                   bfloat16) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  const CudaBackend backend(kSmallParts);
  P<T> there(blocks, page_locked(), backend), here(blocks, {}, backend);
  refresh(there, 1);
  refresh(here, 1);
  const auto expected = projected<T, S>(here);
  CHECK(nearest(expected, Model<S>(50).values()) > 0.1);  // of what a projection changes
  for ([[maybe_unused]] const bool eager : {false, true}) {
#ifndef OGPSA_ON_A_GPU
    test::Device::instance().eager_copies = eager;
#endif
    for (int step = 0; step < 3; ++step) {
      const auto found = projected<T, S>(there);
      CHECK(furthest(found, expected) <= (std::is_same_v<S, bfloat16> ? 0x1p-8 : 16 * test::roundoff<T>));
      CHECK(std::memcmp(found[0].data(), expected[0].data(), found[0].size() * sizeof(S)) == 0);  // it fits the cache
    }
  }
#ifndef OGPSA_ON_A_GPU
  test::Device::instance().eager_copies = false;
#endif
}

TEST_CASE("page-locked: modes, groups, steps, updates and states as on the device") {
  const CudaBackend backend(kSmallParts);
  const auto path = std::filesystem::temp_directory_path() / "ogpsa_page_locked.safetensors";
  const auto check = [&](const ProjectorOptions& options, const std::vector<BlockSpec>& blocks) {
    P<float> there(blocks, page_locked(options), backend), here(blocks, options, backend);
    for (Index step = 0; step < 2; ++step) {
      refresh(there, 1 + 10 * static_cast<std::uint64_t>(step), step);
      refresh(here, 1 + 10 * static_cast<std::uint64_t>(step), step);
    }
    const auto expected = projected<float, float>(here);
    CHECK(furthest(projected<float, float>(there), expected) < 1e-5);
    const Model<float> start(60), a(50), b(50);
    there.project_weights(start.references(there), a.of(there), {}, 1);
    here.project_weights(start.references(here), b.of(here), {}, 1);
    CHECK(furthest(a.values(), b.values()) < 1e-5);
    save(path, there);
    load(path, here);
    CHECK(furthest(projected<float, float>(here), expected) < 1e-5);
    P<float> loaded(blocks, page_locked(options), backend);
    load(path, loaded);
    CHECK(projected<float, float>(loaded) == projected<float, float>(there));
  };
  for (const auto collect : {Collect::objective, Collect::batch}) {
    for (const auto granularity : {Granularity::block, Granularity::global}) {
      CAPTURE(static_cast<int>(collect));
      CAPTURE(static_cast<int>(granularity));
      ProjectorOptions options{.policy = RefreshPolicy::streaming, .granularity = granularity};
      options.reference.rank.max_rank = 4;
      options.reference.collect = collect;
      check(options, blocks);
      options.projection.mode = ProjectionMode::inside;
      check(options, blocks);
      options.projection.mode = ProjectionMode::one_sided;
      if (collect == Collect::objective) check(options, {blocks.begin(), blocks.end() - 1});  // flat ones alone
    }
  }
  std::filesystem::remove(path);
}

TEST_CASE("page-locked: a graph of such a projection is refused") {
  P<float> projector(blocks, page_locked(), CudaBackend(kSmallParts));
  refresh(projector, 1);
  const Model<float> gradient(50);
  CHECK_THROWS_WITH_AS(CudaProjection<float>(projector, gradient.views), doctest::Contains("page-locked"),
                       InvalidArgument);
}

#ifndef OGPSA_ON_A_GPU
TEST_CASE("page-locked: bases take no memory of the device; where the host has none, all is as it was") {
  auto& device = test::Device::instance();
  std::size_t bases = 0;
  for (const auto& block : blocks) bases += block.form == Form::flat ? static_cast<std::size_t>(block.size()) * 12 : 0;
  for (const auto policy : {RefreshPolicy::periodic, RefreshPolicy::streaming}) {
    CAPTURE(static_cast<int>(policy));
    ProjectorOptions options{.policy = policy};
    options.reference.rank.max_rank = 4;
    std::size_t before = device.used();
    P<float> here(blocks, options, CudaBackend(kSmallParts));
    refresh(here, 1);
    const std::size_t with_bases = device.used() - before;
    before = device.used();
    P<float> projector(blocks, page_locked(options), CudaBackend(kSmallParts));
    refresh(projector, 1);
    CHECK(device.used() - before <= with_bases - bases);
    const auto expected = projected<float, float>(projector);
    const test::CountedCalls calls;
    projected<float, float>(projector);
    CHECK(calls.of("cudaMallocHost") == 0);
    for (Index fail = 0;; ++fail) {
      CAPTURE(fail);
      auto collector = projector.begin_refresh();
      collector.add(0, Model<float>(30).references(projector));
      device.fail_at = fail;
      bool failed = false;
      try {
        projector.finish_refresh(std::move(collector), 1);
      } catch (const Error& e) {
        failed = true;
        if (device.failed_call == "cudaMallocHost") {
          CHECK(doctest::String(e.what()) == doctest::Contains("page-locked"));
        }
      }
      device.fail_at = -1;
      if (!failed) break;
      CHECK(projected<float, float>(projector) == expected);
    }
    CHECK(projected<float, float>(projector) != expected);
  }
}
#endif

}  // namespace test_page_locked
