#include <doctest/doctest.h>

#include <string>

#include "ogpsa/ogpsa.hpp"
#include "random.hpp"
#include "support.hpp"

using namespace ogpsa;
using test::CountedCalls;
using test::Device;
using test::DeviceTensor;
using test::Random;

namespace test_context {
namespace {

using Cuda = CudaBackend;
using P = Projector<float, Cuda>;

const std::vector<BlockSpec> blocks = {{.name = "vector", .cols = 40000},
                                       {.name = "input", .rows = 20, .cols = 30, .form = Form::input},
                                       {.name = "output", .rows = 20, .cols = 30, .form = Form::output},
                                       {.name = "both", .rows = 15, .cols = 30, .form = Form::both}};

/// One tensor for each block, on the device.
class Model {
 public:
  explicit Model(std::uint64_t seed) {
    Random random(seed);
    for (const auto& block : blocks) {
      std::vector<float> values;
      for (Index i = 0; i < block.size(); ++i) values.push_back(static_cast<float>(random.normal()));
      tensors_.push_back(std::make_unique<DeviceTensor<float>>(values, block.rows));
    }
  }
  std::vector<TensorView> views() const {
    std::vector<TensorView> result;
    for (const auto& tensor : tensors_) result.push_back(tensor->view());
    return result;
  }
  std::vector<ConstTensorView> const_views() const {
    const auto all = views();
    return {all.begin(), all.end()};
  }
  std::vector<std::vector<float>> values() const {
    std::vector<std::vector<float>> result;
    for (const auto& tensor : tensors_) result.push_back(tensor->values());
    return result;
  }

 private:
  std::vector<std::unique_ptr<DeviceTensor<float>>> tensors_;
};

void refresh(P& projector, const Model& reference) {
  auto collector = projector.begin_refresh();
  collector.add(0, reference.const_views());
  projector.finish_refresh(std::move(collector), 0);
}

/// What a projection of a fresh gradient gives.
std::vector<std::vector<float>> projected(const P& projector) {
  const Model gradient(7);
  projector.project_gradients(gradient.views());
  return gradient.values();
}

}  // namespace

TEST_CASE("context: any call that fails becomes an error with its name, and leaves the projector as it was") {
  const Model reference(1), other(2);
  std::map<std::string, int> failures;
  const std::string before = Device::instance().left_over();
  std::vector<std::vector<float>> expected;
  for (Index at = 0;; ++at) {
    CAPTURE(at);
    Device::instance().fail_at = -1;
    Device::instance().failed_call.clear();
    bool done = false;
    {
      const Cuda backend(CudaOptions{});
      P projector(blocks, {}, backend);
      refresh(projector, reference);
      expected = projected(projector);
      const Model gradient(3);
      const auto untouched = gradient.values();
      bool refreshed = false;
      try {
        Device::instance().fail_at = at;
        const Cuda second(CudaOptions{});
        second.first_non_finite(gradient.const_views()[0]);
        const MatrixView<const float> wide(static_cast<const float*>(gradient.const_views()[0].data), 2000, 20);
        second.gram(wide, wide);
        refresh(projector, other);
        refreshed = true;
        projector.project_gradients(gradient.views());
        Device::instance().fail_at = -1;
        done = Device::instance().failed_call.empty();
      } catch (const CudaError& e) {
        Device::instance().fail_at = -1;
        const std::string call = Device::instance().failed_call;
        ++failures[call];
        if (call.find("cu") == 0 && call.find("cudaGetDriverEntryPoint") != 0) {
          CHECK(std::string(e.what()).find(call.substr(0, call.find("_v2"))) != std::string::npos);
        }
        if (!refreshed) {
          CHECK(gradient.values() == untouched);
          CHECK(projected(projector) == expected);  // usable, with the old subspaces
        }
      }
    }
    CHECK(Device::instance().left_over() == before);
    if (done) break;
    REQUIRE(at < 5000);
  }
  for (const char* call : {"cudaMallocAsync", "cudaMemcpyAsync", "cublasGemmStridedBatchedEx_64",
                           "cublasGemmBatchedEx_64", "cudaStreamSynchronize", "cublasCreate_v2", "cusolverDnCreate",
                           "cusolverDnXsyevd", "launch_kernel", "cublasSsyrk_v2_64"}) {
    CAPTURE(call);
    CHECK(failures[call] > 0);
  }
  for (const char* call : {"cusolverDnXsyevBatched", "cusolverDnXsyevBatched_bufferSize"}) {
    CHECK((failures[call] > 0) == (detail::cuda::kSolvedTogether > 0));
  }
}

TEST_CASE("context: any call that fails while the kernels are compiled and loaded leaves nothing behind") {
  detail::cuda::DefaultContexts::clear();
  auto& device = Device::instance();
  const std::string before = device.left_over();
  std::map<std::string, int> failures;
  for (Index at = 0; at < 200; ++at) {
    device.failed_call.clear();
    device.fail_at = at;
    try {
      const Cuda backend(CudaOptions{});
      backend.max_abs({nullptr, DType::float32, 1, 0});
    } catch (const CudaError&) {
      ++failures[device.failed_call];
    }
    device.fail_at = -1;
    CHECK(device.left_over() == before);
    if (device.failed_call.empty()) break;
  }
  for (const char* call : {"nvrtcCompileProgram", "library_load", "cudaDeviceGetAttribute", "cublasCreate_v2"}) {
    CAPTURE(call);
    CHECK(failures[call] > 0);
  }
}

TEST_CASE("context: out of memory says what was asked for and what is free, and can be recovered from") {
  const Model reference(1), other(2);
  P projector(blocks, {}, Cuda(CudaOptions{}));
  refresh(projector, reference);
  const auto expected = projected(projector);
  auto& device = Device::instance();
  const std::size_t capacity = device.capacity;
  device.capacity = device.used() + 1000;
  try {
    refresh(projector, other);
    FAIL("there was memory");
  } catch (const CudaOutOfMemory& e) {
    CHECK(e.asked() > 1000);
    CHECK(e.free() <= 1000);
    CHECK(std::string(e.what()).find(std::to_string(e.asked()) + " bytes") != std::string::npos);
    CHECK(std::string(e.what()).find(std::to_string(e.free()) + " of ") != std::string::npos);
  }
  device.capacity = capacity;
  CHECK(projected(projector) == expected);
  refresh(projector, other);
  CHECK(projected(projector) != expected);
}

TEST_CASE("context: streams, handles and the allocator of the user are used, and handles are left as they were") {
  const Model reference(1);
  P plain(blocks, {}, Cuda(CudaOptions{}));
  refresh(plain, reference);
  const auto expected = projected(plain);

  cudaStream_t stream = nullptr, other = nullptr;
  cublasHandle_t cublas = nullptr;
  cusolverDnHandle_t cusolver = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking) == cudaSuccess);
  REQUIRE(cublasCreate(&cublas) == CUBLAS_STATUS_SUCCESS);
  REQUIRE(cusolverDnCreate(&cusolver) == CUSOLVER_STATUS_SUCCESS);
  cublasSetStream(cublas, other);
  cusolverDnSetStream(cusolver, other);
  cublasSetMathMode(cublas, CUBLAS_TF32_TENSOR_OP_MATH);
  cublasSetPointerMode(cublas, CUBLAS_POINTER_MODE_DEVICE);
  std::map<void*, std::size_t> memory;
  Index allocations = 0;
  const CudaAllocator allocator{[&](std::size_t bytes, cudaStream_t on) {
                                  CHECK(on == stream);
                                  void* p = nullptr;
                                  if (cudaMallocAsync(&p, bytes, on) == cudaSuccess) memory[p] = bytes;
                                  ++allocations;
                                  return p;
                                },
                                [&](void* p, std::size_t bytes, cudaStream_t on) {
                                  CHECK(on == stream);
                                  CHECK(memory[p] == bytes);
                                  memory.erase(p);
                                  cudaFreeAsync(p, on);
                                }};
  {
    const Cuda backend({.stream = stream, .cublas = cublas, .cusolver = cusolver, .allocator = allocator});
    const CountedCalls calls;
    P projector(blocks, {}, backend);
    refresh(projector, reference);
    CHECK(calls.of("cublasCreate_v2") + calls.of("cusolverDnCreate") + calls.of("cudaStreamCreateWithFlags") == 0);
    CHECK(projected(projector) == expected);
    CHECK(allocations > 0);
    CHECK(calls.of("cudaMallocAsync") - static_cast<Index>(blocks.size()) == allocations);  // those of the gradient
  }
  CHECK(memory.empty());
  cudaStream_t now = nullptr;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
  cublasGetStream(cublas, &now);
  CHECK(now == other);
  cusolverDnGetStream(cusolver, &now);
  CHECK(now == other);
  cublasGetMathMode(cublas, &math);
  CHECK(math == CUBLAS_TF32_TENSOR_OP_MATH);
  cublasGetPointerMode(cublas, &pointers);
  CHECK(pointers == CUBLAS_POINTER_MODE_DEVICE);
  cublasDestroy(cublas);
  cusolverDnDestroy(cusolver);
  cudaStreamDestroy(stream);
  cudaStreamDestroy(other);
}

TEST_CASE("context: work follows the current stream, in order with what was asked for on another") {
  const Model reference(1);
  P plain(blocks, {}, Cuda(CudaOptions{}));
  refresh(plain, reference);
  const auto expected = projected(plain);

  cudaStream_t streams[2] = {};
  for (auto& stream : streams) REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  int current = 0;
  const CudaAllocator allocator{[&](std::size_t bytes, cudaStream_t on) {
                                  CHECK(on == streams[current]);
                                  void* p = nullptr;
                                  cudaMallocAsync(&p, bytes, on);
                                  return p;
                                },
                                [&](void* p, std::size_t, cudaStream_t on) {
                                  CHECK(on == streams[current]);  // that of the last use
                                  cudaFreeAsync(p, on);
                                }};
  {
    const Cuda backend({.current_stream = [&] { return streams[current]; }, .allocator = allocator});
    // Nothing here waits but `to_host`, on the other stream.
    const std::vector<float> values = {1, 2, 3, 4};
    const DeviceTensor<float> tensor(values);
    auto a = backend.matrix<float>(4, 1);
    backend.load(tensor.view(), a.view());
    for (double factor = 2; factor < 1000; factor *= factor) {
      backend.scale_columns(a.view(), std::span<const double>(&factor, 1));
      current = 1 - current;
    }
    std::vector<float> result(4);
    backend.to_host(std::as_const(a).view(), std::span<float>(result));
    CHECK(result == std::vector<float>{128 * 256, 2 * 128 * 256, 3 * 128 * 256, 4 * 128 * 256});

    P projector(blocks, {}, backend);
    refresh(projector, reference);
    current = 1 - current;
    CHECK(projected(projector) == expected);
    const CountedCalls calls;
    CHECK(projected(projector) == expected);
    CHECK(calls.of("cudaStreamWaitEvent") == 0);  // the stream is the same
    refresh(projector, reference);
  }
  for (auto& stream : streams) cudaStreamDestroy(stream);
}

TEST_CASE("context: after the first step nothing is allocated, and tables that stay are not sent again") {
  const Model reference(1), gradient(3);
  P projector(blocks, {}, Cuda(CudaOptions{}));
  refresh(projector, reference);
  const auto views = gradient.views();
  projector.project_gradients(views);
  const CountedCalls calls;
  for (int step = 0; step < 5; ++step) projector.project_gradients(views);
  CHECK(calls.of("launch_kernel") > 0);
  CHECK(calls.of("cudaMallocAsync") == 0);
  CHECK(calls.of("cudaMallocHost") == 0);
  CHECK(calls.of("cudaMemcpyAsync") == calls.of("cudaStreamSynchronize"));  // results alone are copied
}

TEST_CASE("context: a batch of reference gradients is waited for once, however many blocks there are") {
  std::vector<BlockSpec> many;
  for (int copy = 0; copy < 5; ++copy) {
    for (auto block : blocks) {
      block.name += std::to_string(copy);
      many.push_back(block);
    }
  }
  const Model reference(1);
  std::vector<ConstTensorView> gradients;
  for (int copy = 0; copy < 5; ++copy) {
    for (const auto& view : reference.const_views()) gradients.push_back(view);
  }
  P projector(many, {}, Cuda(CudaOptions{}));
  auto collector = projector.begin_refresh();
  collector.add(0, gradients);  // the first one tells the scale of each side
  const CountedCalls calls;
  for (int batch = 0; batch < 3; ++batch) collector.add(0, gradients);
  CHECK(calls.of("cudaStreamSynchronize") == 3);
  projector.finish_refresh(std::move(collector), 0);
}

TEST_CASE("context: a refresh of flat blocks waits as often, however many there are") {
  for (const Collect collect : {Collect::objective, Collect::batch}) {
    CAPTURE(static_cast<int>(collect));
    std::vector<Index> waits;
    for (const int count : {2, 20}) {
      std::vector<BlockSpec> many;
      for (int b = 0; b < count; ++b) many.push_back({.name = "b" + std::to_string(b), .cols = 3000 + 100 * b});
      Projector<float, Cuda> projector(
          many, {.policy = RefreshPolicy::streaming, .reference = {.collect = collect, .rank = {.max_rank = 4}}},
          Cuda(CudaOptions{}));
      Random random(7);
      const auto refresh = [&](Index step) {
        std::vector<std::unique_ptr<test::DeviceTensor<float>>> tensors;
        std::vector<ConstTensorView> gradients;
        for (const auto& block : many) {
          std::vector<float> values;
          for (Index i = 0; i < block.cols; ++i) values.push_back(static_cast<float>(random.normal()));
          tensors.push_back(std::make_unique<test::DeviceTensor<float>>(values));
          gradients.push_back(tensors.back()->view());
        }
        auto collector = projector.begin_refresh();
        collector.add(0, gradients);
        const CountedCalls calls;
        projector.finish_refresh(std::move(collector), step);
        return calls.of("cudaStreamSynchronize");
      };
      refresh(0);
      waits.push_back(refresh(1));
    }
    CHECK(waits[0] > 0);
    CHECK(waits[1] == waits[0]);
    CHECK(waits[1] <= 5);
  }
}

TEST_CASE("context: backends made without options share one context, and devices do not") {
  const CountedCalls calls;
  auto first = Cuda().matrix<float>(3, 2);
  auto second = Cuda().matrix<float>(3, 2);
  CHECK(calls.of("cublasCreate_v2") <= 1);
  const Cuda elsewhere({.device = 1});
  int device = -1;
  elsewhere.synchronize();
  cudaGetDevice(&device);
  CHECK(device == 0);  // the caller's device is as it was
  CHECK_THROWS_AS(Cuda({.device = 17}), CudaError);
}

}  // namespace test_context
