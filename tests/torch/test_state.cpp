#include <cstdio>
#include <filesystem>

#include "support.hpp"

// A run that saves, ends, and goes on from the file is the same bit for bit as one that was never interrupted.

namespace torch_state {  // files are compiled together

using ogpsa::torch::GradientProjector;
using ogpsa::torch::Options;
using test::Mlp;
using test::Task;

namespace {

struct Run {
  explicit Run(const Options& options)
      : optimizer(model.parameters(), torch::optim::SGDOptions(0.05)), projector(model, options) {}

  void train(int first, int last) {
    for (int step = first; step < last; ++step) {
      if (projector.refresh_due(step)) {
        projector.refresh({[&] { return Task(100 + step, 12, torch::kFloat).loss(model); }});
      }
      optimizer.zero_grad();
      Task(200 + step, 12, torch::kFloat).loss(model).backward();
      projector.step(optimizer);
    }
  }

  Mlp model{1, torch::kFloat};
  torch::optim::SGD optimizer;
  GradientProjector projector;
};

void check_resumes(const Options& options) {
  const auto path = std::filesystem::temp_directory_path() / "ogpsa_torch_test_state.safetensors";
  Run whole(options), first(options), second(options);
  whole.train(0, 9);
  first.train(0, 5);  // in the middle of a period of 3
  first.projector.save(path);
  {
    torch::NoGradGuard no_grad;
    for (std::size_t i = 0; i < 4; ++i) second.model.parameters()[i].copy_(first.model.parameters()[i]);
  }
  second.projector.load(path);
  second.train(5, 9);
  CHECK(test::same_bits(whole.model.parameters(), second.model.parameters()));
  CHECK(second.projector.report().basis_age == whole.projector.report().basis_age);
  std::filesystem::remove(path);
}

}  // namespace

TEST_CASE("a resumed run goes on bit for bit: periodic, streaming, structured, rounded bases") {
  check_resumes({.refresh_every = 3});
  check_resumes(
      {.policy = ogpsa::RefreshPolicy::streaming, .refresh_every = 1, .reference = {.rank = {.max_rank = 3}}});
  check_resumes({.policy = ogpsa::RefreshPolicy::streaming,
                 .refresh_every = 2,
                 .reference = {.rank = {.max_rank = 3}},
                 .structured = "weight",
                 .form = ogpsa::Form::both});
  check_resumes({.refresh_every = 3, .basis_storage = ogpsa::BasisStorage::bfloat16});
  check_resumes({.policy = ogpsa::RefreshPolicy::streaming,
                 .refresh_every = 1,
                 .reference = {.rank = {.max_rank = 3}},
                 .basis_storage = ogpsa::BasisStorage::int8});
}

TEST_CASE("a rounded basis: the step is orthogonal to it, and nearly so to the reference gradient") {
  for (const auto storage : {ogpsa::BasisStorage::bfloat16, ogpsa::BasisStorage::int8}) {
    Run run({.basis_storage = storage});
    run.train(0, 1);
    const auto weight = run.model.first->weight.detach().clone();
    const Task reference(100, 12, torch::kFloat);
    run.optimizer.zero_grad();
    reference.loss(run.model).backward();
    const auto h = run.model.first->weight.grad().clone();
    run.projector.refresh({[&] { return reference.loss(run.model); }});
    run.optimizer.zero_grad();
    Task(200, 12, torch::kFloat).loss(run.model).backward();
    run.projector.step(run.optimizer);
    const auto step = run.model.first->weight.detach() - weight;
    const double cosine = ((h * step).sum() / (h.norm() * step.norm())).item<double>();
    const auto& stored = run.projector.core().stored_subspace("first.weight");
    CHECK(stored.storage() == storage);
    CHECK(std::abs(cosine) <= std::sin(stored.rounding_angle()) + 1e-5);  // the weights are rounded, too
    CHECK(std::sin(stored.rounding_angle()) < 0.03);
  }
}

TEST_CASE("a state of other blocks is refused, and the projector stays as it was") {
  const auto path = std::filesystem::temp_directory_path() / "ogpsa_torch_test_other.safetensors";
  Run run({}), other({.include = "first"});
  run.train(0, 1);
  other.train(0, 1);
  run.projector.save(path);
  const auto before = other.projector.core().subspace("first.weight").basis().data[0];
  CHECK_THROWS_AS(other.projector.load(path), ogpsa::InvalidArgument);
  CHECK(other.projector.core().subspace("first.weight").basis().data[0] == before);
  CHECK_THROWS_AS(other.projector.load(path / "missing"), ogpsa::FileError);
  std::filesystem::remove(path);
}

}  // namespace torch_state
