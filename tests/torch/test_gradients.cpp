#include "support.hpp"

// project_gradients: once per optimizer step, in place on .grad.

namespace torch_gradients {  // files are compiled together

using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::GradientProjector;
using ogpsa::torch::NamedParameters;
using test::Mlp;
using test::Task;
using test::Tensor;

namespace {

/// g - sum_i q_i <q_i, g> in double, q by Gram-Schmidt from the unit vectors of h.
Tensor expected(Tensor g, const std::vector<Tensor>& h) {
  std::vector<Tensor> q;
  const auto remove = [&](Tensor v) {
    for (const auto& b : q) v = v - b * test::dot_product(b, v);
    return v;
  };
  for (const auto& v : h) {
    auto direction = v.to(torch::kDouble) / test::two_norm(v);
    direction = remove(remove(direction));
    q.push_back(direction / test::two_norm(direction));
  }
  return remove(remove(g.to(torch::kDouble)));
}

/// Makes `h` the gradient of a parameter's reference loss.
ogpsa::torch::LossClosure product_loss(const Tensor& w, const Tensor& h) {
  return [w, h] { return (w.to(torch::kDouble) * h).sum(); };
}

}  // namespace

TEST_CASE("gradients are projected per tensor, as published, for one and two objectives") {
  for (const std::size_t count : {1u, 2u}) {
    Mlp model;
    std::vector<ogpsa::torch::LossClosure> losses;
    std::vector<std::vector<Tensor>> h;
    for (std::size_t r = 0; r < count; ++r) {
      const Task task(static_cast<std::int64_t>(3 + r));
      losses.push_back([&model, task] { return task.loss(model); });
      h.push_back(test::gradient(task.loss(model), model.parameters()));
    }
    BasicGradientProjector<double> projector(model, {});
    projector.refresh(losses);
    Task(2).loss(model).backward();
    const auto raw = test::copies(test::gradients_of(model.parameters()));
    const auto& report = projector.project_gradients();
    const auto parameters = model.parameters();
    REQUIRE(report.entries.size() == parameters.size());
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      std::vector<Tensor> columns;
      for (const auto& gradients : h) columns.push_back(gradients[i]);
      const auto want = expected(raw[i], columns);
      CHECK(test::two_norm(parameters[i].grad() - want) < 1e-14 * test::two_norm(raw[i]));
      CHECK(report.entries[i].result.norm_before == doctest::Approx(test::two_norm(raw[i])).epsilon(1e-12));
      CHECK(report.entries[i].result.norm_after == doctest::Approx(test::two_norm(want)).epsilon(1e-12));
      const double along = test::dot_product(raw[i], columns[0]) / test::two_norm(columns[0]);
      // Columns are scaled to unit length, so a coefficient is the length of g along h_r.
      CHECK(report.entries[i].result.objective_coefficients(0) == doctest::Approx(along).epsilon(1e-12));
    }
  }
}

TEST_CASE("gradients in every storage type lose the component to their own rounding") {
  torch::manual_seed(1);
  const auto h = torch::randn({30}, torch::kDouble), g = torch::randn({30}, torch::kDouble);
  struct Case {
    torch::Dtype dtype;
    double roundoff;
  };
  for (const auto& [dtype, roundoff] : {Case{torch::kFloat, 0x1p-24}, Case{torch::kDouble, 0x1p-24},
                                        Case{torch::kBFloat16, 0x1p-8}, Case{torch::kHalf, 0x1p-11}}) {
    const auto w = torch::zeros({30}, dtype).requires_grad_();
    const auto rounded = h.to(dtype).to(torch::kDouble);
    GradientProjector projector(NamedParameters{{"w", w}});
    projector.refresh({product_loss(w, rounded)});
    w.mutable_grad() = g.to(dtype);
    const auto want = expected(w.grad(), {rounded});
    projector.project_gradients();
    CHECK((w.grad().scalar_type() == dtype));
    const double tolerance = 4 * 0x1p-24 + roundoff;
    CHECK(((w.grad().to(torch::kDouble) - want).abs() <= tolerance * want.abs() + 1e-6).all().item<bool>());
  }
}

TEST_CASE("gradients that are not contiguous are projected as if they were, and stay as they lie") {
  torch::manual_seed(1);
  const auto w = torch::zeros({4, 6}, torch::kDouble).requires_grad_();
  const auto other = torch::zeros({5}, torch::kDouble).requires_grad_();
  const auto h = torch::randn({4, 6}, torch::kDouble), g = torch::randn({4, 6}, torch::kDouble);
  for (const std::string form : {"flat", "structured"}) {
    ogpsa::torch::Options options{.structured = form == "flat" ? "" : "^w$"};
    options.reference.structured.rank = {.max_rank = 2};
    const auto project = [&](const Tensor& gradient) {
      BasicGradientProjector<double> projector(NamedParameters{{"w", w}, {"other", other}}, options);
      projector.refresh({[&] { return (w * h).sum() + other.sum(); }});
      w.mutable_grad() = gradient;
      other.mutable_grad() = torch::arange(5, torch::kDouble);
      projector.project_gradients();
      CHECK(test::two_norm(other.grad() - (torch::arange(5, torch::kDouble) - 2)) < 1e-14);
      CHECK(w.grad().is_same(gradient));
      return w.grad().contiguous();
    };
    const auto transposed = g.t().contiguous().t();
    REQUIRE(!transposed.is_contiguous());
    const auto want = project(g.clone());
    CHECK(test::two_norm(want - g) > 0.1);
    CHECK(torch::equal(project(transposed), want));
    CHECK(transposed.stride(1) == 4);
    const auto strided = torch::zeros({4, 12}, torch::kDouble).slice(1, 0, 12, 2).copy_(g);
    CHECK(torch::equal(project(strided), want));
  }
}

TEST_CASE("undefined gradients stay undefined, and are reported") {
  Mlp model;
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({[&] { return Task(3).loss(model); }});
  Task(2).loss(model).backward();
  model.first->bias.mutable_grad() = Tensor();
  const auto& report = projector.project_gradients();
  CHECK(report.entries.size() == 3);
  CHECK(!model.first->bias.grad().defined());
  REQUIRE(projector.without_gradient().size() == 1);
  CHECK(projector.without_gradient()[0].name == "first.bias");
}

TEST_CASE("in a group the constraint spans its blocks, and an undefined gradient counts as zero") {
  torch::manual_seed(1);
  const auto a = torch::zeros({3}, torch::kDouble).requires_grad_(),
             b = torch::zeros({4}, torch::kDouble).requires_grad_();
  const auto h = torch::randn({7}, torch::kDouble), g = torch::randn({3}, torch::kDouble);
  BasicGradientProjector<double> projector(NamedParameters{{"a", a}, {"b", b}},
                                           {.granularity = ogpsa::Granularity::global});
  projector.refresh({[&] { return (torch::cat({a, b}) * h).sum(); }});
  a.mutable_grad() = g.clone();
  projector.project_gradients();
  const auto want = expected(torch::cat({g, torch::zeros({4}, torch::kDouble)}), {h});
  REQUIRE(b.grad().defined());
  CHECK(test::two_norm(torch::cat({a.grad(), b.grad()}) - want) < 1e-14);
}

TEST_CASE("two leaves on one memory are projected each, against the subspace of both") {
  const auto w = torch::randn({6}, torch::kDouble).requires_grad_(),
             alias = torch::randn({6}, torch::kDouble).requires_grad_();
  alias.set_data(w.detach());
  const auto h = torch::randn({6}, torch::kDouble), g = torch::randn({6}, torch::kDouble),
             f = torch::randn({6}, torch::kDouble);
  BasicGradientProjector<double> projector(NamedParameters{{"w", w}, {"alias", alias}});
  projector.refresh({[&] { return (w * h).sum() + (alias * f).sum(); }});
  w.mutable_grad() = g.clone();
  alias.mutable_grad() = h.clone();
  projector.project_gradients();
  CHECK(test::two_norm(w.grad() - expected(g, {h + f})) < 1e-14);
  CHECK(test::two_norm(alias.grad() - expected(h, {h + f})) < 1e-14);
}

TEST_CASE("a gradient that is not finite is named, and none is changed") {
  Mlp model;
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({[&] { return Task(3).loss(model); }});
  for (const bool contiguous : {true, false}) {
    model.zero_grad();
    Task(2).loss(model).backward();
    auto& gradient = model.second->weight.mutable_grad();
    if (!contiguous) gradient = gradient.t().contiguous().t();
    gradient[1][2] = INFINITY;
    const auto before = test::copies(test::gradients_of(model.parameters()));
    const auto message = test::message_of<ogpsa::NonFiniteError>([&] { projector.project_gradients(); });
    CHECK(test::contains(message, "block 'second.weight': gradient element 9 is NaN or infinite"));
    CHECK(test::same_bits(test::gradients_of(model.parameters()), before));
  }
}

TEST_CASE("reports carry the step of refresh_due and the age of the basis") {
  Mlp model;
  GradientProjector projector(model, {.refresh_every = 30});
  CHECK(projector.refresh_due(60));
  projector.refresh({[&] { return Task(3).loss(model); }});
  Task(2).loss(model).backward();
  CHECK(projector.project_gradients().basis_age == 0);
  CHECK(!projector.refresh_due(71));
  projector.project_gradients();
  CHECK(projector.report().step == 71);
  CHECK(projector.report().basis_age == 11);
  CHECK(projector.refresh_due(90));
}

}  // namespace torch_gradients
