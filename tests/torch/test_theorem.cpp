#include "support.hpp"

// The theorem of OGPSA: along the projected step of size eta the reference loss moves as eta^2, along the raw one as
// eta. So halving eta divides the change by 4 and by 2.

namespace torch_theorem {  // files are compiled together

using ogpsa::torch::BasicGradientProjector;

namespace {

using test::Mlp;
using test::Task;

const Task safety{2}, general{3}, facts{4};

std::vector<ogpsa::torch::LossClosure> references(Mlp& model) {
  return {[&] { return general.loss(model); }, [&] { return facts.loss(model); }};
}

/// Change of both reference losses by what `step(model, eta)` does to a model that `train` has brought somewhere.
using Step = std::function<void(Mlp&, double eta)>;
std::vector<double> change(const Step& step, double eta) {
  Mlp model;
  const double before_general = general.loss(model).item<double>(), before_facts = facts.loss(model).item<double>();
  step(model, eta);
  return {general.loss(model).item<double>() - before_general, facts.loss(model).item<double>() - before_facts};
}

/// log2 of how much the change grows when eta is doubled, for small eta.
std::vector<double> order(const Step& step) {
  const auto small = change(step, 1e-4), large = change(step, 2e-4);
  return {std::log2(std::abs(large[0] / small[0])), std::log2(std::abs(large[1] / small[1]))};
}

void check_orders(const Step& raw, const Step& projected) {
  for (const double o : order(raw)) CHECK(o == doctest::Approx(1).epsilon(0.02));
  for (const double o : order(projected)) CHECK(o == doctest::Approx(2).epsilon(0.02));
}

/// Makes an optimizer, brings its moments up with a few steps at rate 0, and takes one step at rate eta.
template <class Optimizer, class Options>
Step optimizer_step(const Options& options, bool project) {
  return [=](Mlp& model, double eta) {
    Optimizer optimizer(model.parameters(), Options(options));
    const auto set_rate = [&](double rate) {
      for (auto& group : optimizer.param_groups()) static_cast<Options&>(group.options()).lr(rate);
    };
    BasicGradientProjector<double> projector(model, {});
    projector.refresh(references(model));
    for (const auto seed : {11, 12, 13, 14}) {  // other rows: their gradients stay in the moments
      optimizer.zero_grad();
      Task(seed).loss(model).backward();
      set_rate(0);
      optimizer.step();
    }
    optimizer.zero_grad();
    safety.loss(model).backward();
    set_rate(eta);
    project ? (void)projector.step(optimizer) : (void)optimizer.step();
  };
}

template <class Optimizer, class Options>
void check_optimizer(const Options& options) {
  check_orders(optimizer_step<Optimizer>(options, false), optimizer_step<Optimizer>(options, true));
}

}  // namespace

TEST_CASE("along the projected gradient reference losses move as eta^2, along the raw one as eta") {
  const auto descend = [](bool project) {
    return [project](Mlp& model, double eta) {
      BasicGradientProjector<double> projector(model, {});
      projector.refresh(references(model));
      safety.loss(model).backward();
      if (project) projector.project_gradients();
      torch::NoGradGuard no_grad;
      for (auto& p : model.parameters()) p.sub_(p.grad(), 100 * eta);
    };
  };
  check_orders(descend(false), descend(true));
}

TEST_CASE("the same for the step of AdamW, with weight decay and momentum") {
  check_optimizer<torch::optim::AdamW>(torch::optim::AdamWOptions(1).weight_decay(0.1));
}

TEST_CASE("the same for the step of SGD, with weight decay and momentum") {
  check_optimizer<torch::optim::SGD>(torch::optim::SGDOptions(1).momentum(0.9).weight_decay(0.1));
}

TEST_CASE("projecting the gradient alone is not enough once AdamW has made a step of it") {
  const Step before_adam = [](Mlp& model, double eta) {
    torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(eta).weight_decay(0.1));
    BasicGradientProjector<double> projector(model, {});
    projector.refresh(references(model));
    safety.loss(model).backward();
    projector.project_gradients();
    optimizer.step();
  };
  for (const double o : order(before_adam)) CHECK(o == doctest::Approx(1).epsilon(0.05));
}

TEST_CASE("on the input side a step of any size leaves the answers to inputs in span(M) as they were") {
  Mlp model;
  // Both layers see inputs of few directions: x from a plane, and what the first layer makes of three of them.
  torch::manual_seed(5);
  const auto x = torch::randn({3, 2}, torch::kDouble).matmul(torch::randn({2, 5}, torch::kDouble));
  BasicGradientProjector<double> projector(
      model, {.reference = {.structured = {.rank = {}, .source = ogpsa::MomentSource::inputs}},
              .include = "weight$",
              .structured = "weight$"});
  const auto hidden = torch::tanh(model.first(x)).detach();
  projector.refresh({[&] {
    projector.observe_inputs("first.weight", x);
    projector.observe_inputs("second.weight", hidden);
    return model.forward(x).sum();
  }});
  CHECK(projector.core().subspace("first.weight", ogpsa::Side::input).rank() == 2);
  CHECK(projector.core().subspace("second.weight", ogpsa::Side::input).rank() == 3);

  // "To rounding" is, for a layer's step D and its weights W, 64 u |D| |x| (32 u for the projection, the rest for this
  // product) and u |W| |x|: the weights are rounded, however small the step is.
  const auto check_layer = [](torch::nn::Linear& layer, const test::Tensor& before, const test::Tensor& inputs) {
    const auto step = (layer->weight - before).detach();
    CHECK(test::two_norm(step) > 0);
    const double rounding = 64 * test::two_norm(step) + test::two_norm(layer->weight.detach());
    CHECK(test::two_norm(step.matmul(inputs.t())) <= 0x1p-53 * rounding * test::two_norm(inputs));
  };
  for (const double rate : {1e-3, 1.0, 1e3}) {
    const auto before = test::copies(model.parameters());
    torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(rate).weight_decay(1e-4));
    safety.loss(model).backward();
    projector.step(optimizer);
    check_layer(model.first, before[0], x);
    check_layer(model.second, before[2], hidden);
  }
}

}  // namespace torch_theorem
