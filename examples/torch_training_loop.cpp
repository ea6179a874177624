// A LibTorch loop: a small network learns a new task. The reference loss, its loss on the old task, rises the less the
// more of the step is projected.
#include <torch/torch.h>

#include <cstdio>
#include <ogpsa/torch.hpp>

struct Network : torch::nn::Module {
  Network() {
    first = register_module("first", torch::nn::Linear(8, 32));
    second = register_module("second", torch::nn::Linear(32, 2));
  }
  torch::Tensor forward(torch::Tensor x) { return second(torch::tanh(first(x))); }
  torch::nn::Linear first{nullptr}, second{nullptr};
};

struct Task {
  torch::Tensor x, y;
  torch::Tensor loss(Network& model) const { return torch::mse_loss(model.forward(x), y); }
};

enum class Protect { nothing, gradient, step };

/// Trains on `fresh` and prints both losses. Returns the old task's.
double train(const Task& old, const Task& fresh, Protect protect, const char* name) {
  torch::manual_seed(2);
  auto model = std::make_shared<Network>();
  torch::optim::Adam teacher(model->parameters(), torch::optim::AdamOptions(0.01));
  for (int i = 0; i < 300; ++i) {  // the old task first
    teacher.zero_grad();
    old.loss(*model).backward();
    teacher.step();
  }

  torch::optim::AdamW optimizer(model->parameters(), torch::optim::AdamWOptions(1e-3));
  // Two reference losses, on halves of the old task's rows.
  const std::vector<ogpsa::torch::LossClosure> reference_losses{
      [&] {
        return Task{old.x.slice(0, 0, 32), old.y.slice(0, 0, 32)}.loss(*model);
      },
      [&] {
        return Task{old.x.slice(0, 32), old.y.slice(0, 32)}.loss(*model);
      }};
  ogpsa::torch::GradientProjector projector(*model, {.refresh_every = 5});
  for (int step = 0; step < 60; ++step) {
    if (projector.refresh_due(step)) projector.refresh(reference_losses);
    optimizer.zero_grad();
    fresh.loss(*model).backward();
    if (protect == Protect::step) {
      projector.step(optimizer);  // exact on the step that is taken
    } else {
      if (protect == Protect::gradient) projector.project_gradients();  // the published rule
      optimizer.step();
    }
  }
  const double old_loss = old.loss(*model).item<double>(), new_loss = fresh.loss(*model).item<double>();
  std::printf("%-22s %10.4f %10.4f\n", name, old_loss, new_loss);
  return old_loss;
}

int main() {
  torch::manual_seed(1);
  const auto task = [] { return Task{torch::randn({64, 8}), torch::randn({64, 2})}; };
  const Task old = task(), fresh = task();
  std::printf("%-22s %10s %10s\n", "", "old task", "new task");
  const double plain = train(old, fresh, Protect::nothing, "AdamW");
  const double gradient = train(old, fresh, Protect::gradient, "projected gradient");
  const double step = train(old, fresh, Protect::step, "projected step");
  return step < gradient && gradient < plain ? 0 : 1;
}
