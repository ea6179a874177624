#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <memory>

#include "ogpsa/backend/cuda/capture.hpp"
#include "ogpsa/ogpsa.hpp"
#include "random.hpp"
#include "support.hpp"

using namespace ogpsa;
using test::DeviceTensor;
using test::HostBackend;
using test::Random;

namespace test_capture {
namespace {

const std::vector<BlockSpec> blocks = {{.name = "vector", .cols = 30000},
                                       {.name = "input", .rows = 20, .cols = 300, .form = Form::input},
                                       {.name = "same", .rows = 20, .cols = 300, .form = Form::input},
                                       {.name = "output", .rows = 20, .cols = 30, .form = Form::output},
                                       {.name = "both", .rows = 15, .cols = 25, .form = Form::both}};

template <class S>
using Values = std::vector<std::vector<S>>;

template <class S>
Values<S> random_values(std::uint64_t seed) {
  Random random(seed);
  Values<S> result;
  for (const auto& block : blocks) {
    result.emplace_back();
    for (Index i = 0; i < block.size(); ++i) result.back().push_back(static_cast<S>(random.normal()));
  }
  return result;
}

template <class S>
std::vector<TensorView> host_views(Values<S>& values) {
  std::vector<TensorView> views;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    views.emplace_back(values[b].data(), dtype_of<S>(), blocks[b].rows, blocks[b].cols);
  }
  return views;
}

/// The same with a part that is common to all, so that a projection by one changes the others.
template <class S>
Values<S> related_values(std::uint64_t seed) {
  Values<S> result = random_values<S>(seed);
  const Values<float> common = random_values<float>(1000);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    for (std::size_t i = 0; i < result[b].size(); ++i) {
      result[b][i] = static_cast<S>(static_cast<float>(result[b][i]) + common[b][i]);
    }
  }
  return result;
}

/// Gradients on the device, at places that do not change.
template <class S>
struct Gradients {
  Gradients() {
    const auto values = random_values<S>(100);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      tensors.push_back(std::make_unique<DeviceTensor<S>>(values[b], blocks[b].rows));
      views.push_back(tensors.back()->view());
    }
  }
  void set(const Values<S>& values) {
    for (std::size_t b = 0; b < blocks.size(); ++b) tensors[b]->set(values[b]);
  }
  std::vector<std::unique_ptr<DeviceTensor<S>>> tensors;
  std::vector<TensorView> views;
};

template <class P, class Views>
void refresh(P& projector, const Views& reference) {
  auto collector = projector.begin_refresh();
  collector.add(0, std::vector<ConstTensorView>(reference.begin(), reference.end()));
  projector.finish_refresh(std::move(collector), 0);
}

struct Stream {
  Stream() { REQUIRE(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking) == cudaSuccess); }
  ~Stream() { cudaStreamDestroy(handle); }
  cudaStream_t handle = nullptr;
};

}  // namespace

TEST_CASE_TEMPLATE("capture: a graph projects whatever is in the gradients when it is launched", S, float, bfloat16) {
  const Stream stream;
  const CudaBackend backend({.stream = stream.handle});
  Projector<float, CudaBackend> projector(blocks, {}, backend);
  Projector<float, HostBackend> on_host(blocks, {});
  auto reference = related_values<S>(1), other = random_values<S>(2);
  Gradients<S> gradients;
  gradients.set(reference);
  refresh(projector, gradients.views);
  refresh(on_host, host_views(reference));
  projector.project_gradients(gradients.views);  // the libraries load their kernels
  const auto before = random_values<S>(3);
  gradients.set(before);
  const CudaProjection<float> projection(projector, gradients.views);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
  projection.enqueue(stream.handle);
  REQUIRE(cudaStreamEndCapture(stream.handle, &graph) == cudaSuccess);
  REQUIRE(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  CHECK(gradients.tensors[0]->values() == before[0]);  // nothing is done in capture

  for (const std::uint64_t seed : {4, 5}) {
    auto expected = related_values<S>(seed);
    gradients.set(expected);
    const Report wanted = on_host.project_gradients(host_views(expected));
    REQUIRE(cudaGraphLaunch(exec, stream.handle) == cudaSuccess);
    const Report report = projection.report(stream.handle);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      CAPTURE(blocks[b].name);
      const auto found = gradients.tensors[b]->values();
      double error = 0, norm = 0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        error += std::pow(static_cast<double>(found[i]) - static_cast<double>(expected[b][i]), 2);
        norm += std::pow(static_cast<double>(expected[b][i]), 2);
      }
      CHECK(std::sqrt(error / norm) <= (sizeof(S) == 4 ? 1e-6 : 1e-3));
      const auto &a = report.entries[b].result, &e = wanted.entries[b].result;
      CHECK(report.entries[b].name == wanted.entries[b].name);
      CHECK(a.norm_before == doctest::Approx(e.norm_before).epsilon(1e-6));
      CHECK(a.norm_after == doctest::Approx(e.norm_after).epsilon(sizeof(S) == 4 ? 1e-5 : 1e-3));
      CHECK(a.norm_inside == doctest::Approx(e.norm_inside).epsilon(1e-4));
      CHECK(a.fraction_removed() > 0.01);
    }
    // Other projections, a refresh of another projector and tables of their own do not disturb it.
    Projector<float, CudaBackend> disturbing(blocks, {}, backend);
    gradients.set(other);
    refresh(disturbing, gradients.views);
    disturbing.project_gradients(gradients.views);
  }
  auto bad = random_values<S>(6);
  bad[3][7] = std::numeric_limits<S>::quiet_NaN();
  gradients.set(bad);
  REQUIRE(cudaGraphLaunch(exec, stream.handle) == cudaSuccess);
  CHECK_THROWS_WITH_AS(projection.report(stream.handle), doctest::Contains("block 'output'"), NonFiniteError);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

TEST_CASE("capture: what is decided on the host is refused, and named") {
  const CudaBackend backend;
  Gradients<float> gradients;
  const auto make = [&](ProjectorOptions options, const CudaBackend& on) {
    std::vector<BlockSpec> flat = blocks;
    for (auto& block : flat) block.form = Form::flat;
    Projector<float, CudaBackend> projector(flat, options, on);
    refresh(projector, gradients.views);
    CudaProjection<float>(projector, gradients.views);
  };
  make({}, backend);
  CHECK_THROWS_WITH_AS(make({.projection = {.mode = ProjectionMode::one_sided}}, backend),
                       doctest::Contains("block 'vector' is decided on the host"), InvalidArgument);
  CHECK_THROWS_WITH_AS(make({.granularity = Granularity::global}, backend), doctest::Contains("'(all flat blocks)'"),
                       InvalidArgument);
  CHECK_THROWS_WITH_AS(make({}, CudaBackend(CudaOptions{}, [](std::span<double>) {})),
                       doctest::Contains("sums over ranks"), InvalidArgument);
  Projector<float, CudaBackend> unready(blocks, {}, backend);
  CHECK_THROWS_AS(CudaProjection<float>(unready, gradients.views), StateError);
}

#ifndef OGPSA_ON_A_GPU
TEST_CASE("capture: the ordinary projection waits for its report, so that it cannot be captured") {
  const Stream stream;
  const CudaBackend backend({.stream = stream.handle});
  Projector<float, CudaBackend> projector(blocks, {.projection = {.known_finite = true}}, backend);
  Gradients<float> gradients;
  refresh(projector, gradients.views);
  projector.project_gradients(gradients.views);
  cudaGraph_t graph = nullptr;
  REQUIRE(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeGlobal) == cudaSuccess);
  CHECK_THROWS_WITH_AS(projector.project_gradients(gradients.views), doctest::Contains("failed"), CudaError);
  CHECK(cudaStreamEndCapture(stream.handle, &graph) == cudaErrorStreamCaptureInvalidated);
}

TEST_CASE("capture: a failure while it is prepared leaves nothing behind") {
  const CudaBackend backend(CudaOptions{});
  Projector<float, CudaBackend> projector(blocks, {}, backend);
  Gradients<float> gradients;
  refresh(projector, gradients.views);
  projector.project_gradients(gradients.views);
  auto& device = test::Device::instance();
  const std::string before = device.left_over();
  int failures = 0;
  for (Index at = 0; at < 200; ++at) {
    device.failed_call.clear();
    device.fail_at = at;
    try {
      const CudaProjection<float> projection(projector, gradients.views);
    } catch (const CudaError&) {
      ++failures;
    }
    device.fail_at = -1;
    CHECK(device.left_over() == before);
    if (device.failed_call.empty()) break;
  }
  CHECK(failures > 10);
}
#endif

}  // namespace test_capture
