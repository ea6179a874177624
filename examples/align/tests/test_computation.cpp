#include <doctest/doctest.h>

#include "app/device.hpp"
#include "model/lora.hpp"
#include "tests/support.hpp"
#include "train/dpo.hpp"

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

// On the device "meta" there are shapes, but no numbers; a tensor that is made on the CPU cannot be mixed with them. So
// this runs where a GPU does not.
TEST_CASE("all tensors of a loss are made on the model's device") {
  for (const bool checkpointing : {false, true}) {
    auto model = tiny_model(8);
    model->to(torch::kMeta);
    CHECK(model->device().is_meta());
    add_adapters(model, {.lora_r = 3, .lora_target_modules = {"q_proj", "down_proj"}}, /*seed=*/1);
    for (auto& p : model->parameters()) CHECK(p.set_requires_grad(true).is_meta());
    model->computation.gradient_checkpointing = checkpointing;
    const auto examples = random_examples(8, 18);
    const auto on_cpu = torch::zeros({4, 2});
    const SftLoss sft(examples, 0, 0.1);
    const DpoLoss dpo(examples, 0, on_cpu, {.loss_type = "sigmoid"}), ipo(examples, 0, on_cpu, {.loss_type = "ipo"});
    for (const Loss* loss : std::initializer_list<const Loss*>{&sft, &dpo, &ipo}) {
      model->zero_grad();
      loss->sum(model, first_rows(4)).backward();
      for (const auto& p : model->parameters()) CHECK(p.grad().is_meta());
    }
    KeyValueCache cache;  // rows that are padded at the left, as in decoding
    const auto ids = torch::ones({2, 3}, torch::TensorOptions(torch::kInt64).device(torch::kMeta));
    const auto padding = torch::tensor({0, 1}).to(torch::kMeta);
    for (int i = 0; i < 2; ++i) CHECK(model->logits(model->hidden(ids, &cache, padding)).is_meta());
  }
}

TEST_CASE("--device: names of devices, and what is said of one that is not there") {
  CHECK(device_of("cpu") == torch::Device(torch::kCPU));
  for (const auto* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "CUDA"}) {
    CAPTURE(name);
    CHECK_THROWS_WITH_AS(device_of(name), doctest::Contains("use cpu, cuda or cuda:N"), ogpsa::InvalidArgument);
  }
  CHECK_THROWS_WITH_AS(device_of("cuda:99"), doctest::Contains("--device cuda:99: "), ogpsa::InvalidArgument);
}
