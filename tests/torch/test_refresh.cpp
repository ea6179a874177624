#include <Eigen/SVD>

#include "support.hpp"

// What refresh makes of closures: the subspace of their gradients.

namespace torch_refresh {  // files are compiled together

using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::GradientProjector;
using ogpsa::torch::NamedParameters;
using ogpsa::torch::Objective;
using ogpsa::torch::ReferenceLoss;
using test::Mlp;
using test::Task;
using test::Tensor;

namespace {

/// Q Q^T v of a flat block.
template <class T, class B>
Tensor inside(const ogpsa::Subspace<T, B>& subspace, const Tensor& v) {
  const auto q = torch::from_blob(const_cast<T*>(subspace.basis().data), {subspace.rank(), subspace.dimension()},
                                  torch::CppTypeToScalarType<T>::value)
                     .to(torch::kDouble);
  return q.t().matmul(q.matmul(v.reshape({-1}).to(torch::kDouble)));
}

/// Distance of v from a block's subspace, relative to |v|.
template <class T, class B>
double distance(const ogpsa::Subspace<T, B>& subspace, const Tensor& v) {
  return test::two_norm(v.reshape({-1}) - inside(subspace, v)) / test::two_norm(v);
}

/// An objective over the rows of a task, cut after the given rows; the loss is a mean, the weight its rows.
Objective cut(const std::string& name, Mlp& model, const Task& task, std::vector<std::int64_t> cuts) {
  cuts.insert(cuts.begin(), 0);
  cuts.push_back(task.x.size(0));
  return {name, static_cast<ogpsa::Index>(cuts.size()) - 1, [&model, task, cuts](ogpsa::Index i) {
            const auto k = static_cast<std::size_t>(i);
            const auto count = cuts[k + 1] - cuts[k];
            return ReferenceLoss{task.rows(cuts[k], count).loss(model), static_cast<double>(count)};
          }};
}

}  // namespace

TEST_CASE("each block's subspace is the span of the objectives' gradients") {
  Mlp model;
  const Task a(3), b(4);
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({[&] { return a.loss(model); }, [&] { return b.loss(model); }});
  const auto ga = test::gradient(a.loss(model), model.parameters());
  const auto gb = test::gradient(b.loss(model), model.parameters());
  for (std::size_t i = 0; i < ga.size(); ++i) {
    const auto& subspace = projector.core().subspace(projector.blocks()[i].name);
    CHECK(subspace.rank() == 2);
    CHECK(distance(subspace, ga[i]) < 1e-14);
    CHECK(distance(subspace, gb[i]) < 1e-14);
  }
}

TEST_CASE("the mean gradient does not depend on how rows are cut into micro-batches") {
  Mlp model;
  const Task task(3, 12);
  const auto mean = test::gradient(task.loss(model), model.parameters());  // over all rows at once
  for (const auto& cuts : {std::vector<std::int64_t>{}, {1}, {5, 6}, {1, 2, 4, 11}}) {
    BasicGradientProjector<double> projector(model, {});
    projector.refresh({cut("task", model, task, cuts)});
    for (std::size_t i = 0; i < mean.size(); ++i) {
      CHECK(distance(projector.core().subspace(projector.blocks()[i].name), mean[i]) < 1e-14);
    }
  }
}

TEST_CASE("an empty micro-batch is left out; an objective of empty ones is an error") {
  Mlp model;
  const Task task(3);
  const auto nan = [] { return torch::full({}, NAN, torch::kDouble); };  // a mean over nothing
  BasicGradientProjector<double> projector(model, {});
  projector.refresh({{"task", 2, [&](ogpsa::Index i) {
                        return i == 0 ? ReferenceLoss{nan(), 0} : ReferenceLoss{task.loss(model), 12};
                      }}});
  const auto mean = test::gradient(task.loss(model), model.parameters());
  CHECK(distance(projector.core().subspace("first.weight"), mean[0]) < 1e-14);
  const auto message = test::message_of<ogpsa::StateError>([&] {
    projector.refresh({Objective{"facts", 3, [&](ogpsa::Index) { return ReferenceLoss{nan(), 0}; }}});
  });
  CHECK(test::contains(message, "objective 'facts' has no rows"));
}

TEST_CASE("parameters that no loss depends on are passed over and reported") {
  Mlp model;
  const auto unused = torch::randn({4}, torch::kDouble).requires_grad_();
  auto named = ogpsa::torch::detail::named_parameters(model);
  named.emplace_back("unused", unused);
  BasicGradientProjector<double> projector(named);
  projector.refresh({[&] { return Task(3).loss(model); }});
  REQUIRE(projector.without_gradient().size() == 1);
  CHECK(projector.without_gradient()[0].name == "unused");
  CHECK(projector.without_gradient()[0].reason == "no reference loss depends on it");
  CHECK(projector.core().subspace("unused").rank() == 0);
}

TEST_CASE("tied parameters count once: their gradient is that of both uses") {
  const auto w = torch::randn({4, 4}, torch::kDouble).requires_grad_();
  const auto alias = torch::randn({4, 4}, torch::kDouble).requires_grad_();
  alias.set_data(w.detach());
  const auto x = torch::randn({6, 4}, torch::kDouble);
  const auto loss = [&](const Tensor& first, const Tensor& second) {
    return torch::tanh(x.matmul(first.t())).matmul(second.t()).pow(2).mean();
  };
  const auto expected = test::gradient(loss(w, w), {w})[0];
  SUBCASE("one tensor under two names") {
    BasicGradientProjector<double> projector(NamedParameters{{"a", w}, {"b", w}});
    projector.refresh({[&] { return loss(w, w); }});
    CHECK(distance(projector.core().subspace("a"), expected) < 1e-14);
  }
  SUBCASE("two tensors on one memory") {
    BasicGradientProjector<double> projector(NamedParameters{{"a", w}, {"b", alias}});
    projector.refresh({[&] { return loss(w, alias); }});
    CHECK(distance(projector.core().subspace("a"), expected) < 1e-14);
  }
}

TEST_CASE("parameters that are not contiguous are read in the order of their elements") {
  torch::manual_seed(1);
  const auto weight = torch::randn({3, 5}, torch::kDouble).t().detach().requires_grad_();  // 5 x 3, column-major
  auto conv = torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 4, 2));
  conv->to(torch::kDouble);
  conv->weight.set_data(conv->weight.detach().contiguous(at::MemoryFormat::ChannelsLast));
  REQUIRE(!weight.is_contiguous());
  REQUIRE(!conv->weight.is_contiguous());
  const auto image = torch::randn({2, 3, 5, 5}, torch::kDouble);
  const auto loss = [&] { return conv(image).pow(2).mean() + torch::tanh(weight).pow(2).sum(); };
  BasicGradientProjector<double> projector(NamedParameters{{"weight", weight}, {"conv", conv->weight}});
  projector.refresh({loss});
  const auto expected = test::gradient(loss(), {weight, conv->weight});
  CHECK(distance(projector.core().subspace("weight"), expected[0].contiguous()) < 1e-14);
  CHECK(distance(projector.core().subspace("conv"), expected[1].contiguous()) < 1e-14);
}

TEST_CASE("a streaming refresh folds each batch in, and forgets") {
  Mlp model;
  const auto loss = [&](std::int64_t seed) { return [&model, seed] { return Task(seed).loss(model); }; };
  BasicGradientProjector<double> projector(
      model, {.policy = ogpsa::RefreshPolicy::streaming, .forgetting = 0.5, .reference = {.rank = {.max_rank = 2}}});
  for (const auto seed : {3, 4}) projector.refresh({loss(seed)});
  // The leading two directions of [0.25 g3, 0.5 g4, g5], each normalised.
  projector.refresh({loss(5)});
  Eigen::MatrixXd columns(35, 3);
  for (int j = 0; j < 3; ++j) {
    const auto g = test::gradient(loss(3 + j)(), {model.first->weight})[0].contiguous();
    columns.col(j) = Eigen::Map<const Eigen::VectorXd>(g.data_ptr<double>(), 35).normalized();
  }
  // Forgotten step by step, with truncation to two directions after each.
  Eigen::MatrixXd kept(35, 0);
  for (int j = 0; j < 3; ++j) {
    Eigen::MatrixXd all(35, kept.cols() + 1);
    all << 0.5 * kept, columns.col(j);
    const Eigen::JacobiSVD<Eigen::MatrixXd> svd(all, Eigen::ComputeThinU);
    const auto k = std::min<Eigen::Index>(2, all.cols());
    kept = svd.matrixU().leftCols(k) * svd.singularValues().head(k).asDiagonal();
  }
  const auto& subspace = projector.core().subspace("first.weight");
  REQUIRE(subspace.rank() == 2);
  for (int j = 0; j < 2; ++j) {
    const Eigen::VectorXd direction = kept.col(j);
    const auto v = torch::from_blob(const_cast<double*>(direction.data()), {35}, torch::kDouble);
    CHECK(distance(subspace, v) < 1e-12);
    CHECK(subspace.singular_values()(j) == doctest::Approx(direction.norm()).epsilon(1e-12));
  }
}

TEST_CASE("every storage type gives the subspace of its own gradient") {
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
    Mlp model(1, dtype);
    const Task task(3, 12, dtype);
    GradientProjector projector(model, {});
    projector.refresh({[&] { return task.loss(model); }});
    const auto g = test::gradient(task.loss(model), model.parameters());
    for (std::size_t i = 0; i < g.size(); ++i) {
      CHECK(distance(projector.core().subspace(projector.blocks()[i].name), g[i]) < 1e-6);
    }
  }
  // Few CPU operations know float16, so its loss is a sum.
  const auto w = torch::randn({40}).to(torch::kHalf).requires_grad_();
  const auto x = torch::randn({40}).to(torch::kHalf);
  GradientProjector projector(NamedParameters{{"w", w}});
  projector.refresh({[&] { return (w * x).sum(); }});
  CHECK(distance(projector.core().subspace("w"), x.to(torch::kDouble)) < 1e-6);
}

}  // namespace torch_refresh
