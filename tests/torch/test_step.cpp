#include "optimizers.hpp"

// step(optimizer): the optimizer's own step, less what would move the reference losses.

namespace torch_step {  // files are compiled together

using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::GradientProjector;
using ogpsa::torch::NamedParameters;
using ogpsa::torch::Options;
using test::Mlp;
using test::Task;
using test::Tensor;

namespace {

/// A few ordinary steps, so that moments hold what no projection has seen.
void warm_up(Mlp& model, torch::optim::Optimizer& optimizer) {
  for (const auto seed : {11, 12, 13}) {
    optimizer.zero_grad();
    Task(seed).loss(model).backward();
    optimizer.step();
  }
  optimizer.zero_grad();
  Task(2).loss(model).backward();
}

std::vector<Tensor> steps(const std::vector<Tensor>& after, const std::vector<Tensor>& before) {
  std::vector<Tensor> result;
  for (std::size_t i = 0; i < after.size(); ++i) result.push_back((after[i] - before[i]).detach());
  return result;
}

/// What the optimizer does to a copy of the model without any projection.
std::vector<Tensor> plain_step(const test::NamedOptimizer& kind, int further_steps = 1) {
  Mlp model;
  auto optimizer = kind.make(model.parameters());
  warm_up(model, *optimizer);
  for (int i = 0; i < further_steps; ++i) optimizer->step();
  return test::copies(model.parameters());
}

}  // namespace

TEST_CASE("the step is the optimizer's own, less its component along the reference gradients") {
  for (const auto& kind : test::optimizers()) {
    CAPTURE(kind.name);
    Mlp model;
    auto optimizer = kind.make(model.parameters());
    warm_up(model, *optimizer);
    const auto parameters = model.parameters();
    const auto before = test::copies(parameters), gradients = test::gradients_of(parameters);
    const auto gradient_values = test::copies(gradients);
    BasicGradientProjector<double> projector(model, {});
    projector.refresh({[&] { return Task(3).loss(model); }});
    const auto h = test::gradient(Task(3).loss(model), parameters);
    projector.step(*optimizer);
    const auto taken = steps(parameters, before), raw = steps(plain_step(kind), before);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      const auto unit = h[i] / test::two_norm(h[i]);
      CHECK(test::two_norm(raw[i]) > 1e-3);
      CHECK(test::two_norm(taken[i] - (raw[i] - unit * test::dot_product(unit, raw[i]))) < 1e-15);
      // Rounding of the weights is all that is left along h.
      CHECK(std::abs(test::dot_product(unit, taken[i])) <=
            0x1p-52 * (test::two_norm(before[i]) + test::two_norm(raw[i])));
      const auto& result = projector.report().entries[i].result;
      CHECK(projector.report().entries[i].name == projector.blocks()[i].name);
      CHECK(result.norm_before == doctest::Approx(test::two_norm(raw[i])).epsilon(1e-10));
      CHECK(result.norm_after == doctest::Approx(test::two_norm(taken[i])).epsilon(1e-10));
      if (std::string(kind.name) == "a class derived from SGD") continue;  // it scales gradients itself
      CHECK(parameters[i].grad().is_same(gradients[i]));
    }
    if (std::string(kind.name) == "a class derived from SGD") continue;
    CHECK(test::same_bits(gradients, gradient_values));
  }
}

TEST_CASE("with nothing to remove it is optimizer.step() bit for bit, also for parameters that are no blocks") {
  for (const auto& kind : test::optimizers()) {
    for (const bool covered : {true, false}) {
      CAPTURE(kind.name);
      CAPTURE(covered);
      Mlp model;
      auto optimizer = kind.make(model.parameters());
      warm_up(model, *optimizer);
      const auto elsewhere = torch::ones({3}, torch::kDouble).requires_grad_();
      auto named = covered ? ogpsa::torch::detail::named_parameters(model) : NamedParameters{};
      named.emplace_back("elsewhere", elsewhere);
      BasicGradientProjector<double> projector(named);
      projector.refresh({[&] { return elsewhere.sum(); }});  // the zero subspace for the model
      projector.step(*optimizer);
      projector.step(*optimizer);
      CHECK(test::same_bits(model.parameters(), plain_step(kind, 2)));
      CHECK(torch::equal(elsewhere, torch::ones({3}, torch::kDouble)));
    }
  }
}

TEST_CASE("the optimizer's state is that of an ordinary step") {
  for (const auto& kind : test::optimizers()) {
    CAPTURE(kind.name);
    const auto state_after = [&](bool project) {
      Mlp model;
      auto optimizer = kind.make(model.parameters());
      warm_up(model, *optimizer);
      if (project) {
        BasicGradientProjector<double> projector(model, {});
        projector.refresh({[&] { return Task(3).loss(model); }});
        projector.step(*optimizer);
      } else {
        optimizer->step();
      }
      // Back at the same weights with the same gradients, the next step shows the state.
      const auto parameters = model.parameters(), start = test::copies(Mlp(5).parameters());
      torch::NoGradGuard no_grad;
      for (std::size_t i = 0; i < parameters.size(); ++i) parameters[i].copy_(start[i]);
      for (auto& p : parameters) p.mutable_grad() = torch::ones_like(p);
      optimizer->step();
      return test::copies(parameters);
    };
    CHECK(test::same_bits(state_after(true), state_after(false)));
  }
}

TEST_CASE("structured blocks, groups, several parameter groups, and weights that are not contiguous") {
  for (const std::string what : {"structured", "group", "transposed"}) {
    CAPTURE(what);
    Mlp model;
    if (what == "transposed") {
      model.first->weight.set_data(model.first->weight.detach().t().contiguous().t());
      REQUIRE(!model.first->weight.is_contiguous());
    }
    const auto rate = [](double lr) {
      return std::make_unique<torch::optim::AdamWOptions>(torch::optim::AdamWOptions(lr).weight_decay(0.1));
    };
    torch::optim::AdamW optimizer({torch::optim::OptimizerParamGroup(model.first->parameters(), rate(0.01)),
                                   torch::optim::OptimizerParamGroup(model.second->parameters(), rate(0.1))});
    warm_up(model, optimizer);
    Options options;
    if (what == "structured") options = {.structured = "weight", .form = ogpsa::Form::output};
    if (what == "group") options = {.granularity = ogpsa::Granularity::group, .group = "^(first|second)"};
    BasicGradientProjector<double> projector(model, options);
    projector.refresh({[&] { return Task(3).loss(model); }});
    const auto h = test::gradient(Task(3).loss(model), model.parameters());
    const auto before = test::copies(model.parameters());
    projector.step(optimizer);
    const auto taken = steps(model.parameters(), before);
    for (std::size_t i = 0; i < taken.size(); ++i) CHECK(test::two_norm(taken[i]) > 1e-3);
    const double along = test::dot_product(h[0], taken[0]) / test::two_norm(h[0]);
    if (what == "transposed") CHECK(std::abs(along) < 1e-14);
    if (what == "group") {
      CHECK(std::abs(along) > 1e-6);  // the constraint is on both tensors together
      CHECK(std::abs(test::dot_product(h[0], taken[0]) + test::dot_product(h[1], taken[1])) < 1e-14);
    }
    if (what == "structured") {
      // The leading eigenvector of G G^T.
      const auto eigen = torch::linalg_eigh(h[0].matmul(h[0].t()), "L");
      const auto leading = std::get<1>(eigen).select(1, 6);
      CHECK(test::two_norm(leading.matmul(taken[0])) < 1e-13);
      CHECK(test::two_norm(taken[0].matmul(torch::ones({5}, torch::kDouble))) > 1e-3);
    }
  }
}

TEST_CASE("LBFGS, which asks for a closure, is projected with a snapshot of all blocks") {
  const auto run = [](bool project) {
    Mlp model;
    const auto before = test::copies(model.parameters());
    torch::optim::LBFGS optimizer(model.parameters(), torch::optim::LBFGSOptions(0.1).max_iter(4));
    const auto closure = [&] {
      optimizer.zero_grad();
      auto loss = Task(2).loss(model);
      loss.backward();
      return loss;
    };
    BasicGradientProjector<double> projector(model, {});
    projector.refresh({[&] { return Task(3).loss(model); }});
    const auto loss = project ? projector.step(optimizer, closure) : optimizer.step(closure);
    CHECK(loss.item<double>() == Task(2).loss(*std::make_unique<Mlp>()).item<double>());
    return steps(model.parameters(), before);
  };
  Mlp model;
  const auto h = test::gradient(Task(3).loss(model), model.parameters());
  const auto raw = run(false), taken = run(true);
  for (std::size_t i = 0; i < h.size(); ++i) {
    const auto unit = h[i] / test::two_norm(h[i]);
    CHECK(test::two_norm(taken[i] - (raw[i] - unit * test::dot_product(unit, raw[i]))) < 1e-14);
  }
}

TEST_CASE("a closure for an optimizer that is stepped block by block runs once, with gradients") {
  Mlp model;
  torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(0.01));
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({[&] { return Task(3).loss(model); }});
  int calls = 0;
  torch::NoGradGuard no_grad;
  const auto loss = projector.step(optimizer, [&] {
    ++calls;
    optimizer.zero_grad();
    auto l = Task(2).loss(model);
    l.backward();
    return l;
  });
  CHECK(calls == 1);
  CHECK(loss.item<double>() == Task(2).loss(*std::make_unique<Mlp>()).item<double>());
  CHECK(projector.report().total().norm_before > 0);
}

TEST_CASE("parameters without a gradient are not stepped, and reported") {
  Mlp model;
  torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(0.01).weight_decay(0.1));
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({[&] { return Task(3).loss(model); }});
  Task(2).loss(model).backward();
  model.first->weight.mutable_grad() = Tensor();
  const auto before = test::copies(model.parameters());
  projector.step(optimizer);
  CHECK(torch::equal(model.first->weight, before[0]));
  CHECK(!torch::equal(model.first->bias, before[1]));
  REQUIRE(projector.without_gradient().size() == 1);
  CHECK(projector.without_gradient()[0].name == "first.weight");
  CHECK(!model.first->weight.grad().defined());
}

TEST_CASE("a gradient that is not finite stops the step before anything is changed") {
  Mlp model;
  torch::optim::AdamW optimizer(model.parameters(), torch::optim::AdamWOptions(0.01));
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({[&] { return Task(3).loss(model); }});
  Task(2).loss(model).backward();
  model.second->bias.mutable_grad()[1] = NAN;
  const auto before = test::copies(model.parameters());
  const auto message = test::message_of<ogpsa::NonFiniteError>([&] { projector.step(optimizer); });
  CHECK(test::contains(message, "block 'second.bias': gradient element 1"));
  CHECK(test::same_bits(model.parameters(), before));
  CHECK(optimizer.state().empty());
}

TEST_CASE("a step that overflows leaves its block's weights, and all gradients, as they were") {
  Mlp model(1, torch::kFloat);
  torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(1e38));
  GradientProjector projector(model, {});
  projector.refresh({[&] { return Task(3, 12, torch::kFloat).loss(model); }});
  (Task(2, 12, torch::kFloat).loss(model) * 1e8).backward();
  const auto before = test::copies(model.parameters()), gradients = test::gradients_of(model.parameters());
  const auto message = test::message_of<ogpsa::NonFiniteError>([&] { projector.step(optimizer); });
  CHECK(test::contains(message, "block 'first.weight': weight after the step element"));
  CHECK(test::same_bits(model.parameters(), before));
  for (std::size_t i = 0; i < gradients.size(); ++i) CHECK(model.parameters()[i].grad().is_same(gradients[i]));
}

TEST_CASE("weights in half precision: the constraint holds to the rounding of the weights") {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const double roundoff = dtype == torch::kHalf ? 0x1p-11 : 0x1p-8;
    torch::manual_seed(1);
    const auto w = torch::randn({200}).to(dtype).requires_grad_();
    const auto h = torch::randn({200}).to(dtype);
    GradientProjector projector(NamedParameters{{"w", w}});
    projector.refresh({[&] { return (w * h).sum(); }});
    const auto copy = w.detach().clone().requires_grad_();
    torch::optim::SGD optimizer({w}, torch::optim::SGDOptions(0.3)), plain({copy}, torch::optim::SGDOptions(0.3));
    w.mutable_grad() = (torch::randn({200}) + h.to(torch::kFloat)).to(dtype);
    copy.mutable_grad() = w.grad().clone();
    const auto in_double = [](const Tensor& t) { return t.detach().to(torch::kDouble); };
    const auto before = in_double(w), hd = in_double(h);
    projector.step(optimizer);
    plain.step();
    // What the optimizer did to the stored weights, projected, and then rounded once.
    const auto raw = in_double(copy) - before;
    const auto wanted = before + raw - hd * (test::dot_product(hd, raw) / test::dot_product(hd, hd));
    CHECK(((in_double(w) - wanted).abs() <= roundoff * wanted.abs() + 1e-5).all().item<bool>());
    CHECK(std::abs(test::dot_product(hd, in_double(w) - before)) <=
          roundoff * test::dot_product(hd.abs(), wanted.abs()) + 1e-3);
    CHECK(std::abs(test::dot_product(hd, raw)) > 10);
  }
}

}  // namespace torch_step
