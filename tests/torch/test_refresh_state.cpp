#include "support.hpp"

// Refresh leaves no trace in the training run, whether it ends well or throws.

namespace torch_refresh_state {  // files are compiled together

using ogpsa::torch::GradientProjector;
using ogpsa::torch::Objective;
using ogpsa::torch::ReferenceLoss;
using test::Tensor;

namespace {

struct Model : torch::nn::Module {
  Model() {
    torch::manual_seed(1);
    input = register_module("input", torch::nn::Linear(5, 6));
    norm = register_module("norm", torch::nn::BatchNorm1d(6));
    dropout = register_module("dropout", torch::nn::Dropout(0.5));
    output = register_module("output", torch::nn::Linear(6, 3));
    output->bias.requires_grad_(false);
    norm->eval();  // a module in another mode than its parent
  }
  Tensor forward(const Tensor& x) { return output(dropout(norm(input(x)))); }

  torch::nn::Linear input{nullptr}, output{nullptr};
  torch::nn::BatchNorm1d norm{nullptr};
  torch::nn::Dropout dropout{nullptr};
};

/// All that a refresh must leave as it is.
struct State {
  explicit State(Model& model) {
    for (const auto& p : model.parameters()) {
      gradients.push_back(p.grad());
      requires_grad.push_back(p.requires_grad());
    }
    gradient_values = test::copies(defined());
    for (const auto& b : model.buffers()) buffers.push_back(b.clone());
    weights = test::copies(model.parameters());
    for (const auto& m : model.modules(false)) modes.push_back(m->is_training());
    modes.push_back(model.is_training());
    random = at::detail::getDefaultCPUGenerator().get_state();
  }
  std::vector<Tensor> defined() const {
    std::vector<Tensor> result;
    std::copy_if(gradients.begin(), gradients.end(), std::back_inserter(result), [](auto& g) { return g.defined(); });
    return result;
  }
  void check_equal(const State& other) const {
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      CHECK(gradients[i].unsafeGetTensorImpl() == other.gradients[i].unsafeGetTensorImpl());  // the same tensor
    }
    CHECK(test::same_bits(gradient_values, other.gradient_values));
    CHECK(test::same_bits(buffers, other.buffers));
    CHECK(test::same_bits(weights, other.weights));
    CHECK(requires_grad == other.requires_grad);
    CHECK(modes == other.modes);
    CHECK(torch::equal(random, other.random));
  }

  std::vector<Tensor> gradients, gradient_values, buffers, weights;
  std::vector<bool> requires_grad, modes;
  Tensor random;
};

/// A closure that changes whatever it can.
Tensor careless_loss(Model& model) {
  model.train();
  const auto x = torch::randn({8, 5});
  model.forward(x).pow(2).mean().backward();  // into .grad, through dropout and the running statistics
  model.zero_grad();
  const auto loss = model.forward(x).pow(2).mean();
  model.output->bias.requires_grad_(true);
  model.norm->weight.requires_grad_(false);
  return loss;
}

}  // namespace

TEST_CASE("refresh leaves gradients, requires_grad, modes, buffers and the random state as they were") {
  Model model;
  GradientProjector projector(model, {});
  model.forward(torch::randn({8, 5})).sum().backward();
  model.norm->bias.mutable_grad() = Tensor();  // one undefined among defined ones
  const State before(model);
  REQUIRE(before.defined().size() == 4);  // of 6: the output's bias is frozen

  SUBCASE("when it ends well") {
    projector.refresh({[&] { return careless_loss(model); }, [&] { return careless_loss(model); }});
    CHECK(projector.core().ready());
  }
  SUBCASE("when a closure throws") {
    CHECK_THROWS_AS(projector.refresh({[&]() -> Tensor {
      careless_loss(model);
      throw std::runtime_error("out of rows");
    }}),
                    std::runtime_error);
    CHECK(!projector.core().ready());
  }
  SUBCASE("when a loss is NaN") {
    CHECK_THROWS_AS(projector.refresh({[&] { return careless_loss(model) * NAN; }}), ogpsa::NonFiniteError);
  }
  State(model).check_equal(before);
}

TEST_CASE("refresh works where gradients are switched off, and leaves them so") {
  Model model;
  GradientProjector projector(model, {});
  torch::NoGradGuard no_grad;
  projector.refresh({[&] { return careless_loss(model); }});
  CHECK(!torch::GradMode::is_enabled());
  CHECK(projector.core().subspace("input.weight").rank() == 1);
}

TEST_CASE("the run goes on after a refresh as it would have without one") {
  const auto train = [](bool refresh) {
    Model model;
    torch::manual_seed(7);
    torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(0.1).momentum(0.9));
    GradientProjector projector(model, {});
    for (int step = 0; step < 4; ++step) {
      optimizer.zero_grad();
      model.forward(torch::randn({8, 5})).pow(2).mean().backward();
      if (refresh) projector.refresh({[&] { return careless_loss(model); }});
      optimizer.step();
    }
    return test::copies(model.parameters());
  };
  CHECK(test::same_bits(train(true), train(false)));
}

}  // namespace torch_refresh_state
