#include <algorithm>

#include "support.hpp"

// How much memory LibTorch is asked for: one gradient of the model in a refresh, a few blocks in a step.

namespace torch_memory {  // files are compiled together

using ogpsa::torch::GradientProjector;
using ogpsa::torch::NamedParameters;
using test::Tensor;

namespace {

/// Peak of the bytes that LibTorch allocates on this thread while it lives, over what there was before.
class PeakMemory {
 public:
  PeakMemory() : guard_(c10::DebugInfoKind::PROFILER_STATE, counter_) {}
  double bytes() const { return static_cast<double>(counter_->peak); }

 private:
  struct Counter : c10::MemoryReportingInfoBase {
    // LibTorch 1.13 declares the first, later versions the second.
    virtual void reportMemoryUsage(void*, std::int64_t bytes, std::int64_t, std::int64_t, c10::Device) { add(bytes); }
    virtual void reportMemoryUsage(void*, std::int64_t bytes, std::size_t, std::size_t, c10::Device) { add(bytes); }
    bool memoryProfilingEnabled() const override { return true; }
    void add(std::int64_t bytes) {
      now += bytes;
      peak = std::max(peak, now);
    }
    std::int64_t now = 0, peak = 0;
  };
  std::shared_ptr<Counter> counter_ = std::make_shared<Counter>();
  c10::DebugInfoGuard guard_;
};

/// Weights of Blocks x Side x Side, and a loss whose gradients are h.
template <int Blocks, int Side>
struct Fixture {
  static constexpr int kBlocks = Blocks;
  static constexpr double kBlockBytes = Side * Side * 4;
  Fixture() {
    torch::manual_seed(1);
    for (int i = 0; i < Blocks; ++i) {
      named.emplace_back("w" + std::to_string(i), torch::randn({Side, Side}).requires_grad_());
      weights.push_back(named.back().second);
      h.push_back(torch::randn({Side, Side}));
    }
  }
  Tensor loss() const {
    auto sum = torch::zeros({});
    for (std::size_t i = 0; i < weights.size(); ++i) sum = sum + (weights[i] * h[i]).sum();
    return sum;
  }
  NamedParameters named;
  std::vector<Tensor> weights, h;
};
using Small = Fixture<16, 128>;
using Large = Fixture<5, 2048>;  // 16 MiB a block: two are stepped together, then two, then the last

}  // namespace

TEST_CASE_FIXTURE(Small, "a refresh holds one gradient of the model") {
  GradientProjector projector(named);
  for (auto& w : weights) w.mutable_grad() = torch::ones_like(w);  // is not copied
  const PeakMemory peak;
  projector.refresh({[&] { return loss(); }, [&] { return loss(); }});
  CHECK(peak.bytes() >= kBlocks * kBlockBytes);
  CHECK(peak.bytes() <= (kBlocks + 2) * kBlockBytes);
}

TEST_CASE_FIXTURE(Small, "gradients are projected where they lie, or by a copy of one block") {
  GradientProjector projector(named);
  projector.refresh({[&] { return loss(); }});
  for (auto& w : weights) w.mutable_grad() = torch::ones_like(w);
  {
    const PeakMemory peak;
    projector.project_gradients();
    CHECK(peak.bytes() < 0.1 * kBlockBytes);
  }
  for (auto& w : weights) w.mutable_grad() = torch::ones_like(w).t();
  const PeakMemory peak;
  projector.project_gradients();
  CHECK(peak.bytes() <= 1.3 * kBlockBytes);  // LibTorch transposes through a small buffer
}

TEST_CASE_FIXTURE(Large, "a step needs a snapshot of 32 MiB of blocks beside what the optimizer takes for one") {
  GradientProjector projector(named);
  projector.refresh({[&] { return loss(); }});
  for (const bool project : {false, true}) {
    torch::optim::AdamW optimizer(weights, torch::optim::AdamWOptions(0.01));
    for (auto& w : weights) w.mutable_grad() = torch::ones_like(w);
    optimizer.step();  // allocates the moments
    std::vector<Tensor> before;
    for (const auto& w : weights) before.push_back(w.detach().clone());
    const PeakMemory peak;
    project ? (void)projector.step(optimizer) : (void)optimizer.step();
    CHECK(peak.bytes() <= (project ? 5.1 : 3.1) * kBlockBytes);
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const Tensor step = (weights[i].detach() - before[i]).to(torch::kDouble), along = h[i].to(torch::kDouble);
      const double cosine = ((step * along).sum() / step.norm() / along.norm()).item<double>();
      CHECK((std::abs(cosine) < 1e-6) == project);
    }
  }
}

TEST_CASE_FIXTURE(Large, "the metric of the optimizer is made for 32 MiB of blocks at a time") {
  GradientProjector projector(named, {.metric = ogpsa::torch::StepMetric::optimizer});
  projector.refresh({[&] { return loss(); }});
  torch::optim::AdamW optimizer(weights, torch::optim::AdamWOptions(0.01));
  for (auto& w : weights) w.mutable_grad() = torch::ones_like(w);
  optimizer.step();
  const PeakMemory peak;
  projector.step(optimizer);
  CHECK(peak.bytes() <= 5.1 * kBlockBytes);
}

}  // namespace torch_memory
