#include <c10/cuda/CUDAGuard.h>

#include <ogpsa/torch/cuda.hpp>

#include "temporary_folder.hpp"
#include "torch/support.hpp"

// Needs a GPU: CudaGradientProjector against GradientProjector. Where there is none, only what is said about that is
// tested; the other tests pass without doing anything.

namespace torch_gpu {
namespace {

using ogpsa::Form;
using ogpsa::torch::BasicCudaGradientProjector;
using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::CudaGradientProjector;
using ogpsa::torch::GradientProjector;
using ogpsa::torch::LibTorchCudaBackend;
using ogpsa::torch::NamedParameters;
using ogpsa::torch::Tensor;

bool no_gpu() {
  if (::torch::cuda::is_available()) return false;
  MESSAGE("left out: there is no GPU here");
  return true;
}

/// Tensors of a vector, a matrix and a convolution; the same on every device. Those of different seeds have a part in
/// common, so that to project one by the other changes it by much more than rounding does.
std::vector<Tensor> random_tensors(std::int64_t seed, ::torch::Dtype dtype, const at::Device& device) {
  std::vector<Tensor> tensors;
  for (const auto& sizes : std::vector<std::vector<std::int64_t>>{{70000}, {96, 160}, {24, 3, 5, 5}}) {
    ::torch::manual_seed(1000);
    const Tensor common = ::torch::randn(sizes);
    ::torch::manual_seed(static_cast<std::uint64_t>(seed));
    tensors.push_back((::torch::randn(sizes) + common).to(dtype).to(device));
  }
  return tensors;
}

struct Model : ::torch::nn::Module {
  Model(::torch::Dtype dtype, const at::Device& device) {
    const auto values = random_tensors(1, dtype, device);
    for (std::size_t i = 0; i < values.size(); ++i) {
      weights.push_back(
          register_parameter(std::vector<std::string>{"vector", "matrix_proj", "conv_proj"}[i], values[i]));
    }
  }
  /// A loss whose gradient is exact: sum of w * r.
  ogpsa::torch::LossClosure loss(std::int64_t seed) {
    return [this, r = random_tensors(seed, weights[0].scalar_type(), weights[0].device())] {
      Tensor sum = (weights[0] * r[0]).sum();
      for (std::size_t i = 1; i < weights.size(); ++i) sum = sum + (weights[i] * r[i]).sum();
      return sum;
    };
  }
  void set_gradients(std::int64_t seed) {
    const auto values = random_tensors(seed, weights[0].scalar_type(), weights[0].device());
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i].mutable_grad() = values[i];
  }
  std::vector<Tensor> on_cpu(bool gradients) const {
    std::vector<Tensor> result;
    for (const auto& w : weights) result.push_back((gradients ? w.grad() : w.detach()).to(::torch::kCPU).clone());
    return result;
  }
  std::vector<Tensor> weights;
};

ogpsa::torch::Options options() {
  ogpsa::torch::Options result{.structured = "_proj", .form = Form::both};
  result.reference.structured.rank.max_share = 0.3;
  return result;
}

/// | a - b | <= tolerance | b |, and b is another than `before`.
void check_close(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const std::vector<Tensor>& before,
                 double tolerance) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    const double change = test::two_norm(b[i] - before[i]);
    CHECK(change > 0.05 * test::two_norm(before[i]));
    CHECK(test::two_norm(a[i] - b[i]) <= tolerance * test::two_norm(b[i]));
  }
}

/// Gradients after two refreshes, one of them read from a file.
template <class P>
std::vector<Tensor> projected(P&& projector, Model& model, const std::filesystem::path& file) {
  projector.refresh({model.loss(2), model.loss(3)});
  projector.save(file);
  projector.refresh({model.loss(4)});
  projector.load(file);
  model.set_gradients(5);
  projector.project_gradients();
  return model.on_cpu(true);
}

}  // namespace

TEST_CASE("GPU: where there is none, or tensors are elsewhere, it is said") {
  Model cpu(::torch::kFloat, ::torch::kCPU);
  CHECK(test::contains(test::message_of<ogpsa::InvalidArgument>([&] { CudaGradientProjector projector(cpu); }),
                       "not on cpu; move the module with to(torch::kCUDA)"));
  if (!::torch::cuda::is_available()) {
    CHECK(test::contains(test::message_of<ogpsa::InvalidArgument>([] { LibTorchCudaBackend backend; }), "no GPU here"));
    return;
  }
  CHECK(test::contains(
      test::message_of<ogpsa::InvalidArgument>([] { LibTorchCudaBackend backend(at::Device(::torch::kCUDA, 99)); }),
      "there is no cuda:99 here"));
  Model gpu(::torch::kFloat, ::torch::kCUDA);
  CHECK(test::contains(test::message_of<ogpsa::InvalidArgument>([&] { GradientProjector projector(gpu); }),
                       "are on cuda:0, but this projector works on cpu"));
  const auto mixed = test::message_of<ogpsa::InvalidArgument>([&] {
    CudaGradientProjector(NamedParameters{{"a", gpu.weights[0]}, {"b", cpu.weights[1]}});
  });
  CHECK(test::contains(mixed, "'b' is on cpu; 'a' is on cuda:0"));
}

TEST_CASE("GPU: gradients become what they become on the CPU") {
  if (no_gpu()) return;
  const test::TemporaryFolder folder;
  const auto file = folder / "state.safetensors";
  const auto check = [&](auto scalar, ::torch::Dtype dtype, double tolerance) {
    using T = decltype(scalar);
    Model cpu(dtype, ::torch::kCPU), gpu(dtype, ::torch::kCUDA);
    const auto expected = projected(BasicGradientProjector<T>(cpu, options()), cpu, file);
    const auto result = projected(BasicCudaGradientProjector<T>(gpu, options()), gpu, file);
    check_close(result, expected, random_tensors(5, dtype, ::torch::kCPU), tolerance);
  };
  check(0.0, ::torch::kDouble, 1e-12);
  check(0.0f, ::torch::kFloat, 1e-5);
  check(0.0f, ::torch::kBFloat16, 4e-3);
  check(0.0f, ::torch::kHalf, 5e-4);
}

TEST_CASE("GPU: steps of AdamW become what they become on the CPU") {
  if (no_gpu()) return;
  const auto stepped = [](auto&& projector, Model& model) {
    ::torch::optim::AdamW optimizer(model.parameters(), ::torch::optim::AdamWOptions(0.1).weight_decay(0.1));
    for (int step = 0; step < 4; ++step) {
      if (step % 2 == 0) projector.refresh({model.loss(2 + step), model.loss(3 + step)}, step);
      model.set_gradients(10 + step);
      projector.step(optimizer);
    }
    return model.on_cpu(false);
  };
  auto flat = options();
  flat.structured = "";
  flat.metric = ogpsa::torch::StepMetric::optimizer;
  for (const auto& o : {options(), flat}) {
    Model cpu(::torch::kDouble, ::torch::kCPU), gpu(::torch::kDouble, ::torch::kCUDA);
    const auto expected = stepped(BasicGradientProjector<double>(cpu, o), cpu);
    const auto result = stepped(BasicCudaGradientProjector<double>(gpu, o), gpu);
    check_close(result, expected, random_tensors(1, ::torch::kDouble, ::torch::kCPU), 1e-10);
  }
}

TEST_CASE("GPU: work is in the order of the stream that is current") {
  if (no_gpu()) return;
  Model cpu(::torch::kFloat, ::torch::kCPU), gpu(::torch::kFloat, ::torch::kCUDA);
  GradientProjector on_cpu(cpu, options());
  CudaGradientProjector projector(gpu, options());
  on_cpu.refresh({cpu.loss(2)});
  cpu.set_gradients(5);
  on_cpu.project_gradients();
  const auto values = random_tensors(5, ::torch::kFloat, ::torch::kCUDA);
  const auto before = random_tensors(5, ::torch::kFloat, ::torch::kCPU);
  const auto slow = [] {  // some milliseconds of work, in the end 0
    auto x = ::torch::randn({2048, 2048}, ::torch::kCUDA);
    for (int i = 0; i < 30; ++i) x = x.matmul(x).tanh();
    return 0 * x.sum();
  };
  const auto use = [&] {
    const auto zero = slow();
    for (std::size_t i = 0; i < values.size(); ++i) gpu.weights[i].mutable_grad() = values[i] + zero;
    projector.project_gradients();
    return gpu.on_cpu(true);
  };
  ::torch::cuda::synchronize();
  const auto stream = c10::cuda::getStreamFromPool(), other = c10::cuda::getStreamFromPool();
  for (int round = 0; round < 3; ++round) {
    {
      const c10::cuda::CUDAStreamGuard guard(stream);
      projector.refresh({gpu.loss(2)});
      check_close(use(), cpu.on_cpu(true), before, 1e-5);
    }
    {
      const c10::cuda::CUDAStreamGuard guard(other);
      check_close(use(), cpu.on_cpu(true), before, 1e-5);
    }
    check_close(use(), cpu.on_cpu(true), before, 1e-5);
  }
  ::torch::cuda::synchronize();
}

TEST_CASE("GPU: a refresh leaves the random numbers as they were, and memory goes back to LibTorch") {
  if (no_gpu()) return;
  namespace caching = c10::cuda::CUDACachingAllocator;
  Model gpu(::torch::kFloat, ::torch::kCUDA);
  const auto allocated = [] {
    ::torch::cuda::synchronize();
    return caching::getDeviceStats(0).allocated_bytes[0].current;
  };
  const auto before = allocated();
  {
    CudaGradientProjector projector(gpu, options());
    ::torch::manual_seed(3);
    const auto expected = ::torch::rand({4}, ::torch::kCUDA);
    ::torch::manual_seed(3);
    const auto dropped = [&] { return gpu.loss(2)() * (1 + ::torch::dropout(gpu.weights[0], 0.5, true).mean()); };
    projector.refresh({dropped});
    CHECK(::torch::equal(::torch::rand({4}, ::torch::kCUDA), expected));
    CHECK(allocated() > before);
  }
  CHECK(allocated() == before);
}

TEST_CASE("GPU: several devices in one process, a projector for each") {
  if (no_gpu() || ::torch::cuda::device_count() < 2) return;
  const test::TemporaryFolder folder;
  Model cpu(::torch::kDouble, ::torch::kCPU);
  const auto expected = projected(BasicGradientProjector<double>(cpu, options()), cpu, folder / "s");
  Model first(::torch::kDouble, {::torch::kCUDA, 0}), second(::torch::kDouble, {::torch::kCUDA, 1});
  BasicCudaGradientProjector<double> a(first, options()), b(second, options());
  const auto before = random_tensors(5, ::torch::kDouble, ::torch::kCPU);
  for (int round = 0; round < 2; ++round) {
    check_close(projected(b, second, folder / "s"), expected, before, 1e-12);
    check_close(projected(a, first, folder / "s"), expected, before, 1e-12);
  }
  CHECK(c10::cuda::current_device() == 0);
}

}  // namespace torch_gpu
