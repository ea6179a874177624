#include <doctest/doctest.h>

#include "app/device.hpp"
#include "model/lora.hpp"
#include "tests/support.hpp"

using namespace align;
using namespace align::test;

namespace {

torch::Tensor loss_of(CausalLm& model) {
  const SftLoss loss(random_examples(6, 17), 0);
  return loss.sum(model, first_rows(6)) / 30;
}

std::vector<torch::Tensor> gradients_by_backward(CausalLm& model) {
  model->zero_grad();
  loss_of(model).backward();
  std::vector<torch::Tensor> result;
  for (const auto& p : model->parameters()) result.push_back(p.grad().clone());
  return result;
}

}  // namespace

TEST_CASE("recomputation changes neither loss nor gradients, by backward and by grad") {
  auto model = tiny_model(5);
  const auto loss = loss_of(model);
  const auto expected = gradient(model, loss);
  model->computation.gradient_checkpointing = true;
  const auto recomputed_loss = loss_of(model);
  CHECK(recomputed_loss.item<double>() == loss.item<double>());
  CHECK(torch::equal(gradient(model, recomputed_loss), expected));
  std::vector<torch::Tensor> parts;
  for (const auto& g : gradients_by_backward(model)) parts.push_back(g.flatten());
  CHECK(torch::equal(torch::cat(parts), expected));
  const torch::NoGradGuard no_grad;
  CHECK(loss_of(model).item<double>() == loss.item<double>());
}

TEST_CASE("bf16: the loss is that of float32 to about 8 bits; weights and gradients are float32") {
  auto model = tiny_model(6);
  const double exact = loss_of(model).item<double>();
  model->computation.bf16 = true;
  for (const bool recompute : {false, true}) {
    model->computation.gradient_checkpointing = recompute;
    const double rounded = loss_of(model).item<double>();
    CHECK(rounded != exact);
    CHECK(rounded == doctest::Approx(exact).epsilon(0.02));
    for (const auto& g : gradients_by_backward(model)) CHECK((g.scalar_type() == torch::kFloat32));
  }
  const auto before = gradients_by_backward(model);
  model->computation.bf16 = false;
  const auto after = gradients_by_backward(model);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < after.size(); ++i) {
    difference += (before[i] - after[i]).square().sum().item<double>();
    norm += after[i].square().sum().item<double>();
  }
  CHECK(std::sqrt(difference / norm) < 0.05);
}

TEST_CASE("LoRA: nothing changes at first, adapters alone are trained, and merging gives the same model") {
  auto model = tiny_model(7);
  auto plain = clone(model);
  const auto ids = torch::arange(1, 12).unsqueeze(0);
  const LoraOptions options{.lora_r = 3, .lora_alpha = 6, .lora_target_modules = {"q_proj", "down_proj"}};
  add_adapters(model, options, /*seed=*/1);
  const auto before = model->hidden(ids).detach();
  CHECK(largest_difference(before, plain->hidden(ids)) == 0);
  loss_of(model).backward();
  int trained = 0;
  for (const auto& item : model->named_parameters()) {
    const bool adapter = item.key().find("lora_") != std::string::npos;
    CHECK(item.value().requires_grad() == adapter);
    trained += adapter;
  }
  CHECK(trained == 2 * 2 * 2);
  {
    const torch::NoGradGuard no_grad;
    for (auto& p : model->parameters()) {
      if (p.requires_grad()) p.add_(torch::randn_like(p), 0.1);
    }
    // y = (W + alpha / r B A) x
    const auto with = model->named_parameters();
    for (auto& item : plain->named_parameters()) {
      const auto base = item.key().substr(0, item.key().size() - 6);  // without "weight"
      if (!with.contains(base + "lora_A.weight")) continue;
      item.value().add_(torch::matmul(with[base + "lora_B.weight"], with[base + "lora_A.weight"]), 6.0 / 3);
    }
  }
  CHECK(largest_difference(model->hidden(ids), before) > 1e-2);
  CHECK(largest_difference(model->hidden(ids), plain->hidden(ids)) < 1e-5);
  CHECK_THROWS_WITH_AS(add_adapters(plain, {3, 6, {"w_pack"}}, 1), doctest::Contains("w_pack"), ogpsa::InvalidArgument);
}

TEST_CASE("--device: names of devices, and what is said of one that is not there") {
  CHECK(device_of("cpu") == torch::Device(torch::kCPU));
  for (const auto* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "CUDA"}) {
    CAPTURE(name);
    CHECK_THROWS_WITH_AS(device_of(name), doctest::Contains("use cpu, cuda or cuda:N"), ogpsa::InvalidArgument);
  }
  CHECK_THROWS_WITH_AS(device_of("cuda:99"), doctest::Contains("--device cuda:99: "), ogpsa::InvalidArgument);
}
