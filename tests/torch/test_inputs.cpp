#include "support.hpp"

// The input side from what a layer sees: observe_inputs in the module's forward.

namespace torch_inputs {  // files are compiled together

using ogpsa::Form;
using ogpsa::MomentSource;
using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::Objective;
using ogpsa::torch::Options;
using ogpsa::torch::ReferenceLoss;
using test::Tensor;

namespace {

/// Tells whoever listens what its layers see.
struct Model : torch::nn::Module {
  Model() {
    torch::manual_seed(1);
    up = register_module("up", torch::nn::Linear(4, 6));
    down = register_module("down", torch::nn::Linear(6, 4));
    to(torch::kDouble);
  }
  Tensor forward(const Tensor& x) {
    observe("up.weight", x);
    const auto hidden = torch::tanh(up(x));
    observe("down.weight", hidden);
    return down(hidden);
  }
  std::function<void(const std::string&, const Tensor&)> observe = [](const std::string&, const Tensor&) {};
  torch::nn::Linear up{nullptr}, down{nullptr};
};

const Options options{.reference = {.structured = {.rank = {.max_rank = 2}, .source = MomentSource::inputs}},
                      .exclude = "bias",
                      .structured = "weight"};

Tensor basis(const BasicGradientProjector<double>& projector, const std::string& block) {
  const auto& side = projector.core().subspace(block, ogpsa::Side::input);
  return torch::from_blob(const_cast<double*>(side.basis().data), {side.rank(), side.dimension()}, torch::kDouble)
      .clone();
}

}  // namespace

TEST_CASE("the subspace holds the leading eigenvectors of sum x x^T over all micro-batches and positions") {
  Model model;
  BasicGradientProjector<double> projector(model, options);
  model.observe = [&](const std::string& block, const Tensor& x) { projector.observe_inputs(block, x); };
  const auto x = torch::randn({6, 5, 4}, torch::kDouble);  // rows x positions x width
  for (const std::int64_t size : {6, 2}) {
    projector.refresh({Objective{
        "task", 6 / size, [&](ogpsa::Index i) {
          return ReferenceLoss{model.forward(x.narrow(0, i * size, size)).pow(2).mean(), static_cast<double>(size)};
        }}});
    const auto check = [&](const std::string& block, const Tensor& inputs) {
      const auto rows = inputs.reshape({30, -1});
      const auto vectors = std::get<1>(torch::linalg_eigh(rows.t().matmul(rows), "L"));
      const auto leading = vectors.slice(1, vectors.size(1) - 2);
      // As projectors, since the sign of an eigenvector is free.
      const auto m = basis(projector, block);
      CHECK(test::two_norm(m.t().matmul(m) - leading.matmul(leading.t())) < 1e-12);
    };
    check("up.weight", x);
    check("down.weight", torch::tanh(model.up(x)).detach());
  }
}

TEST_CASE("only the forward is run: no gradient is needed, and none is left") {
  Model model;
  BasicGradientProjector<double> projector(model, options);
  model.observe = [&](const std::string& block, const Tensor& x) { projector.observe_inputs(block, x); };
  projector.refresh({[&] {
    const auto loss = model.forward(torch::randn({3, 4}, torch::kDouble)).sum();
    CHECK(!loss.requires_grad());
    return loss;
  }});
  CHECK(projector.core().subspace("up.weight", ogpsa::Side::input).rank() == 2);
  CHECK(projector.without_gradient().empty());
}

TEST_CASE("outside a refresh observe_inputs does nothing; inside, it checks what it is given") {
  Model model;
  BasicGradientProjector<double> projector(model, options);
  projector.observe_inputs("nonsense", torch::ones({1}));
  const auto x = torch::randn({3, 4}, torch::kDouble), hidden = torch::randn({3, 6}, torch::kDouble);
  const auto refresh = [&](const std::string& block, const Tensor& inputs) {
    return test::message_of<ogpsa::Error>([&] {
      projector.refresh({[&] {
        projector.observe_inputs("up.weight", x);
        projector.observe_inputs("down.weight", hidden);
        projector.observe_inputs(block, inputs);
        return model.forward(x).sum();
      }});
    });
  };
  CHECK(test::contains(refresh("left.weight", x), "there is no parameter 'left.weight'"));
  CHECK(test::contains(refresh("up.weight", hidden), "block 'up.weight' has inputs of 4 elements, but"));
  CHECK(test::contains(refresh("up.weight", x * NAN),
                       "objective '0', micro-batch 0: block 'up.weight': input element 0"));
  CHECK(!projector.core().ready());
  CHECK(refresh("up.bias", x) == "");                    // a parameter, but no block of this projector
  CHECK(refresh("up.weight", x.narrow(0, 0, 0)) == "");  // no rows
  CHECK(projector.core().ready());
}

TEST_CASE("a block that saw no inputs is an error, not a block without protection") {
  Model model;
  BasicGradientProjector<double> projector(model, options);
  const auto message = test::message_of<ogpsa::StateError>([&] {
    projector.refresh({[&] {
      projector.observe_inputs("up.weight", torch::ones({1, 4}, torch::kDouble));
      return model.forward(torch::ones({1, 4}, torch::kDouble)).sum();
    }});
  });
  CHECK(test::contains(message, "block 'down.weight' saw no inputs during refresh; call observe_inputs"));
  CHECK(!projector.core().ready());
}

TEST_CASE("both sides: inputs from the layer, outputs from its gradients") {
  Model model;
  Options both = options;
  both.form = Form::both;
  BasicGradientProjector<double> projector(model, both);
  model.observe = [&](const std::string& block, const Tensor& x) { projector.observe_inputs(block, x); };
  const auto x = torch::randn({9, 4}, torch::kDouble);
  const auto loss = [&] { return model.forward(x).pow(2).mean(); };
  projector.refresh({loss});
  const auto g = test::gradient(loss(), {model.up->weight})[0];
  const auto outputs = std::get<1>(torch::linalg_eigh(g.matmul(g.t()), "L")).slice(1, 4);
  const auto& side = projector.core().subspace("up.weight", ogpsa::Side::output);
  REQUIRE(side.rank() == 2);
  const auto l = torch::from_blob(const_cast<double*>(side.basis().data), {2, 6}, torch::kDouble);
  CHECK(test::two_norm(l.t().matmul(l) - outputs.matmul(outputs.t())) < 1e-12);
}

}  // namespace torch_inputs
