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

TEST_CASE("a resumed run goes on bit for bit: periodic, streaming, structured") {
  check_resumes({.refresh_every = 3});
  check_resumes(
      {.policy = ogpsa::RefreshPolicy::streaming, .refresh_every = 1, .reference = {.rank = {.max_rank = 3}}});
  check_resumes({.policy = ogpsa::RefreshPolicy::streaming,
                 .refresh_every = 2,
                 .reference = {.rank = {.max_rank = 3}},
                 .structured = "weight",
                 .form = ogpsa::Form::both});
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
