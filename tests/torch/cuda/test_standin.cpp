#include "cuda/support.hpp"
#include "temporary_folder.hpp"
#include "torch/support.hpp"

// The adapter with the CUDA backend, where there is no GPU: tensors whose memory is that of the stand-in (tests/cuda),
// so that everything but LibTorch's own arithmetic runs as on a GPU. To LibTorch they are on the CPU; if it touched one
// of them, the program would end.

namespace torch_standin {
namespace {

using ogpsa::EigenBackend;
using ogpsa::Form;
using ogpsa::Index;
using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::NamedParameters;
using ogpsa::torch::Tensor;

class StandInBackend : public ogpsa::CudaBackend {
 public:
  StandInBackend() : CudaBackend(ogpsa::CudaOptions{}) {}
  at::Device device() const { return ::torch::kCPU; }
};

/// A copy of a tensor in the memory of a backend.
Tensor placed(const Tensor& tensor, const StandInBackend&) {
  const Tensor host = tensor.contiguous();
  const auto bytes = static_cast<std::size_t>(host.nbytes());
  void* memory = nullptr;
  REQUIRE(cudaMallocAsync(&memory, bytes, nullptr) == cudaSuccess);
  REQUIRE(cudaMemcpyAsync(memory, host.data_ptr(), bytes, cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
  return ::torch::from_blob(
      memory, host.sizes(), [](void* p) { cudaFreeAsync(p, nullptr); }, host.options());
}
Tensor placed(const Tensor& tensor, const EigenBackend&) { return tensor.clone(); }

Tensor read(const Tensor& tensor, const StandInBackend&) {
  Tensor host = ::torch::empty(tensor.sizes(), tensor.options());
  REQUIRE(cudaMemcpyAsync(host.data_ptr(), tensor.data_ptr(), static_cast<std::size_t>(host.nbytes()),
                          cudaMemcpyDeviceToHost, nullptr) == cudaSuccess);
  REQUIRE(cudaStreamSynchronize(nullptr) == cudaSuccess);
  return host;
}
Tensor read(const Tensor& tensor, const EigenBackend&) { return tensor.clone(); }

/// A loss whose gradients by three tensors are given.
struct GivenGradients : ::torch::autograd::Function<GivenGradients> {
  static Tensor forward(::torch::autograd::AutogradContext* context, const std::vector<Tensor>* gradients,
                        const Tensor&, const Tensor&, const Tensor&) {
    context->saved_data["gradients"] = *gradients;
    return ::torch::ones({});
  }
  static ::torch::autograd::variable_list backward(::torch::autograd::AutogradContext* context,
                                                   const ::torch::autograd::variable_list&) {
    ::torch::autograd::variable_list result{Tensor()};
    for (const Tensor& gradient : context->saved_data["gradients"].toTensorVector()) result.push_back(gradient);
    return result;
  }
};

std::vector<Tensor> random_tensors(std::int64_t seed, ::torch::Dtype dtype) {
  ::torch::manual_seed(static_cast<std::uint64_t>(seed));
  std::vector<Tensor> tensors;
  for (const auto& sizes : std::vector<std::vector<std::int64_t>>{{5000}, {20, 30}, {12, 3, 2, 2}}) {
    tensors.push_back(::torch::randn(sizes).to(dtype));
  }
  return tensors;
}

/// What becomes of gradients, with a refresh, a file between, and a second refresh.
template <class B>
std::vector<Tensor> projected(::torch::Dtype dtype, const std::string& file) {
  const B backend;
  const auto all_placed = [&](std::int64_t seed) {
    std::vector<Tensor> tensors;
    for (const auto& tensor : random_tensors(seed, dtype)) tensors.push_back(placed(tensor, backend));
    return tensors;
  };
  auto weights = all_placed(1);
  for (auto& w : weights) w.set_requires_grad(true);
  const NamedParameters named{{"vector", weights[0]}, {"matrix_proj", weights[1]}, {"both_proj", weights[2]}};
  ogpsa::torch::Options options{.structured = "_proj", .form = Form::input};
  options.reference.structured.rank.max_share = 0.3;
  using P = BasicGradientProjector<float, B>;
  P first(named, options, backend);
  const auto objective = [&](std::int64_t seed) -> ogpsa::torch::LossClosure {
    return [&, given = all_placed(seed)] { return GivenGradients::apply(&given, weights[0], weights[1], weights[2]); };
  };
  first.refresh({objective(2), objective(3)});
  first.save(file);
  P projector(named, options, backend);
  projector.load(file);
  std::vector<Tensor> result;
  for (const std::int64_t seed : {5, 6}) {
    auto gradients = all_placed(seed);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i].mutable_grad() = gradients[i];
    projector.project_gradients();
    CHECK(projector.report().total().fraction_removed() > 1e-4);
    for (const auto& gradient : gradients) result.push_back(read(gradient, backend));
    projector.refresh({objective(4)}, seed);
    for (std::size_t i = 0; i < weights.size(); ++i) CHECK(weights[i].grad().is_same(gradients[i]));
  }
  return result;
}

}  // namespace

TEST_CASE("CUDA in LibTorch, by the stand-in: gradients become what they become on the CPU") {
  const test::TemporaryFolder folder;
  for (const auto dtype : {::torch::kFloat, ::torch::kBFloat16}) {
    const auto file = (folder.path() / "state.safetensors").string();
    const auto expected = projected<EigenBackend>(dtype, file), result = projected<StandInBackend>(dtype, file);
    const double unit = dtype == ::torch::kFloat ? 1e-6 : 4e-3;
    for (std::size_t i = 0; i < expected.size(); ++i) {
      CHECK(test::two_norm(result[i] - expected[i]) <= unit * test::two_norm(expected[i]));
    }
  }
}

TEST_CASE("CUDA in LibTorch, by the stand-in: a gradient that is not finite is found, and nothing changes") {
  const StandInBackend backend;
  auto weight = placed(::torch::ones({4, 5}), backend).set_requires_grad(true);
  BasicGradientProjector<float, StandInBackend> projector(NamedParameters{{"w", weight}}, {}, backend);
  Tensor bad = ::torch::ones({4, 5});
  const std::vector<Tensor> given(3, placed(bad, backend));
  const auto unused = ::torch::ones({4, 5});
  projector.refresh({[&] { return GivenGradients::apply(&given, weight, unused, unused); }});
  bad[2][3] = NAN;
  weight.mutable_grad() = placed(bad, backend);
  const auto message = test::message_of<ogpsa::NonFiniteError>([&] { projector.project_gradients(); });
  CHECK(test::contains(message, "'w'"));
  CHECK(::torch::equal(read(weight.grad(), backend).nan_to_num(7), bad.nan_to_num(7)));
}

}  // namespace torch_standin
