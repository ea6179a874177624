#pragma once

#include <dlfcn.h>
#include <torch/torch.h>

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "study/run.hpp"
#include "terminal/stop.hpp"

/// \file
/// Runs side by side, each on one thread: a small model gains nothing from more.

namespace align::study {

/// Debian's LibTorch takes its matrix products from OpenBLAS, which has threads of its own.
inline void use_one_blas_thread() {
  if (void* symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads")) reinterpret_cast<void (*)(int)>(symbol)(1);
}

/// Executes a plan with `jobs` threads; finished runs are kept.
/// \return false when it was interrupted. \throws what the first failing run threw
class Workers {
 public:
  Workers(const Workbench& bench, std::vector<Run> plan) : bench_(bench), plan_(std::move(plan)) {
    double work = 0;
    int left = 0;
    for (const auto& run : plan_) {
      state_.push_back(bench.finished(run) ? State::finished : State::waiting);
      if (state_.back() == State::finished) continue;
      work += bench.work(run);
      ++left;
    }
    progress_ = std::make_unique<Progress>(work, left);
  }

  bool run(int jobs) {
    use_one_blas_thread();
    std::vector<std::thread> threads;
    for (int i = 0; i < jobs; ++i) threads.emplace_back([this] { work(); });
    for (auto& thread : threads) thread.join();
    progress_->clear();
    if (failure_) std::rethrow_exception(failure_);
    return !stop_requested;
  }

 private:
  enum class State { waiting, running, finished };

  void work() {
    torch::set_num_threads(1);
    std::unique_lock lock(mutex_);
    while (true) {
      std::size_t next = plan_.size();
      changed_.wait(lock,
                    [&] { return stop_requested || failure_ || (next = ready()) < plan_.size() || none_waits(); });
      if (stop_requested || failure_ || next == plan_.size()) break;
      state_[next] = State::running;
      lock.unlock();
      auto failure = execute(plan_[next]);
      lock.lock();
      state_[next] = State::finished;
      if (failure && !failure_) {
        failure_ = failure;
        stop_requested = true;  // the others write a checkpoint
      }
      changed_.notify_all();
    }
    changed_.notify_all();
  }
  std::exception_ptr execute(const Run& run) {
    try {
      const auto result = bench_.execute(run, *progress_, stop_requested);
      progress_->finish_run(line(run, result));
    } catch (const Interrupted&) {
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }
  static std::string line(const Run& run, const Result& result) {
    const auto& e = result.evaluation;
    return fmt::format(
        "seed {}  {:<8}{:<13}lr {:<8}refuses {:.2f}  look-alikes {:.2f}  exact match {:.3f}  loss {:.3f}  {:.1f} "
        "ms/step",
        run.seed, run.stage, run.arm, fmt::format("{:g}", result.learning_rate), e.refusals, e.false_refusals,
        e.mean().exact_match, e.mean().loss, 1000 * result.seconds_per_step);
  }
  bool none_waits() const { return std::count(state_.begin(), state_.end(), State::waiting) == 0; }
  /// The first run whose start is there.
  std::size_t ready() const {
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      if (state_[i] != State::waiting) continue;
      if (plan_[i].start.empty() || state_[index_of(plan_[i].start)] == State::finished) return i;
    }
    return plan_.size();
  }
  std::size_t index_of(const std::filesystem::path& folder) const {
    std::size_t i = 0;
    while (plan_[i].folder() != folder) ++i;
    return i;
  }

  const Workbench& bench_;
  std::vector<Run> plan_;
  std::vector<State> state_;
  std::unique_ptr<Progress> progress_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::exception_ptr failure_;
};

}  // namespace align::study
