// A linear loss: after a step on the projected gradient the reference loss is where it was.
#include <torch/torch.h>

#include <ogpsa/torch.hpp>

int main() {
  torch::manual_seed(1);
  torch::nn::Linear model(3, 2);
  const auto x = torch::randn({5, 3}), y = torch::randn({5, 3});
  const auto reference = [&] { return model(x).sum(); };
  ogpsa::torch::GradientProjector projector(*model, {.refresh_every = 10});
  projector.refresh({reference});
  model(y).pow(2).sum().backward();
  projector.project_gradients();
  const double before = reference().item<double>();
  torch::optim::SGD(model->parameters(), 0.1).step();
  return std::abs(reference().item<double>() - before) < 1e-5 ? 0 : 1;
}
