#include "support.hpp"

// step in the optimizer's own metric P = sqrt(v / bias correction) + eps: D' = D - P^-1 H (H^T P^-1 H)^-1 H^T D.

namespace torch_metric {  // files are compiled together

using ogpsa::torch::BasicGradientProjector;
using ogpsa::torch::StepMetric;
using test::Mlp;
using test::Task;
using test::Tensor;

namespace {

/// Adam by hand, in double: moments after the gradients so far.
struct Moments {
  Moments(const std::vector<Tensor>& gradients, bool amsgrad) {
    Tensor v = torch::zeros_like(gradients[0]), largest = v;
    for (const auto& g : gradients) {
      v = 0.999 * v + 0.001 * g * g;
      largest = torch::max(largest, v);
    }
    const double correction = 1 - std::pow(0.999, static_cast<double>(gradients.size()));
    metric = ((amsgrad ? largest : v) / correction).sqrt() + 1e-8;
  }
  Tensor metric;
};

template <class Optimizer, class Options>
void check_metric(bool amsgrad) {
  Mlp model;
  Optimizer optimizer(model.parameters(), Options(0.02).weight_decay(0.1).amsgrad(amsgrad));
  const auto parameters = model.parameters();
  std::vector<std::vector<Tensor>> gradients(parameters.size());
  const auto backward = [&](std::int64_t seed) {
    optimizer.zero_grad();
    Task(seed).loss(model).backward();
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      auto g = parameters[i].grad().clone();
      if (std::is_same_v<Optimizer, torch::optim::Adam>) g += 0.1 * parameters[i].detach();  // its weight decay
      gradients[i].push_back(g);
    }
  };
  for (const auto seed : {11, 12, 13}) {
    backward(seed);
    optimizer.step();
  }
  backward(2);
  const auto before = test::copies(parameters);
  const auto h1 = test::gradient(Task(3).loss(model), parameters), h2 = test::gradient(Task(4).loss(model), parameters);

  BasicGradientProjector<double> projector(model, {.metric = StepMetric::optimizer});
  projector.refresh({[&] { return Task(3).loss(model); }, [&] { return Task(4).loss(model); }});
  projector.step(optimizer);
  std::vector<Tensor> taken;
  for (std::size_t i = 0; i < parameters.size(); ++i) taken.push_back((parameters[i] - before[i]).detach());

  // The raw step, from a second run.
  Mlp again;
  Optimizer plain(again.parameters(), Options(0.02).weight_decay(0.1).amsgrad(amsgrad));
  for (const auto seed : {11, 12, 13, 2}) {
    plain.zero_grad();
    Task(seed).loss(again).backward();
    plain.step();
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const auto raw = (again.parameters()[i] - before[i]).detach().reshape({-1});
    const auto p = Moments(gradients[i], amsgrad).metric.reshape({-1});
    const auto h =
        torch::stack({h1[i].reshape({-1}) / test::two_norm(h1[i]), h2[i].reshape({-1}) / test::two_norm(h2[i])}, 1);
    const auto gram = h.t().matmul(h / p.unsqueeze(1));
    const auto y = torch::inverse(gram).matmul(h.t().matmul(raw));
    const auto want = raw - (h / p.unsqueeze(1)).matmul(y);
    CHECK(test::two_norm(taken[i].reshape({-1}) - want) < 1e-11 * test::two_norm(raw));
    CHECK(test::two_norm(h.t().matmul(taken[i].reshape({-1}))) < 1e-14);
    // It differs from the Euclidean projection.
    const auto q = std::get<0>(torch::linalg_qr(h));
    CHECK(test::two_norm(want - (raw - q.matmul(q.t().matmul(raw)))) > 1e-3 * test::two_norm(raw));
  }
}

}  // namespace

TEST_CASE("AdamW and Adam, with and without amsgrad, against the formula") {
  for (const bool amsgrad : {false, true}) {
    check_metric<torch::optim::AdamW, torch::optim::AdamWOptions>(amsgrad);
    check_metric<torch::optim::Adam, torch::optim::AdamOptions>(amsgrad);
  }
}

TEST_CASE("an optimizer without a metric is an error, before anything is changed") {
  Mlp model;
  torch::optim::SGD optimizer(model.parameters(), torch::optim::SGDOptions(0.1));
  BasicGradientProjector<double> projector(model, {.metric = StepMetric::optimizer});
  projector.refresh({[&] { return Task(3).loss(model); }});
  Task(2).loss(model).backward();
  const auto before = test::copies(model.parameters());
  CHECK(test::contains(test::message_of<ogpsa::InvalidArgument>([&] { projector.step(optimizer); }),
                       "only Adam and AdamW"));
  CHECK(test::same_bits(model.parameters(), before));
}

}  // namespace torch_metric
