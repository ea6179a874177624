#pragma once

#include <torch/torch.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <memory>
#include <utility>
#include <vector>

#include "train/loss.hpp"
#include "train/options.hpp"
#include "train/protection.hpp"
#include "train/random.hpp"
#include "train/state.hpp"

namespace align {

/// What one optimizer step did.
struct StepRecord {
  std::int64_t step = 0;
  double loss = 0;  ///< mean over the rows of the step, before it
  double learning_rate = 0;
  double gradient_norm = 0;    ///< before clipping, after a projection of the gradient
  std::int64_t tokens = 0;     ///< that went through the model, padding included
  double seconds = 0;          ///< of the whole step
  double refresh_seconds = 0;  ///< of these, to estimate the subspace
  double update_seconds = 0;   ///< of these, from the gradients to the new weights: project, clip, AdamW
};

/// Cuts rows into micro-batches of at most `size`. Padding is computed like everything else; so rows of similar length
/// go together, and a batch ends where the shorter rows that follow would make more than an eighth of it padding (if
/// that is more than a hundred tokens: a batch has a cost of its own).
inline std::vector<std::vector<std::int64_t>> micro_batches(const Loss& loss, std::vector<std::int64_t> rows,
                                                            std::int64_t size) {
  std::stable_sort(rows.begin(), rows.end(), [&](auto a, auto b) { return loss.length(a) > loss.length(b); });
  std::vector<std::vector<std::int64_t>> batches;
  std::int64_t longest = 0, padding = 0;
  for (const auto row : rows) {
    const auto count = batches.empty() ? size : static_cast<std::int64_t>(batches.back().size());
    padding += longest - loss.length(row);
    if (count >= size || padding > std::max<std::int64_t>(100, longest * (count + 1) / 8)) {
      batches.emplace_back();
      longest = loss.length(row);
      padding = 0;
    }
    batches.back().push_back(row);
  }
  return batches;
}

/// Trains a model one optimizer step at a time. Everything a run needs to go on is in `save`.
class Trainer {
 public:
  /// \param loss, replay  have to outlive the trainer; rows of `replay` (nullptr: none) are added to each step, as
  ///                      replay_ratio says, with the same weight as the others
  Trainer(CausalLm model, const Loss& loss, TrainOptions options, Protection protection, const Loss* replay = nullptr)
      : model_(std::move(model)),
        loss_{loss},
        replay_{replay},
        options_(std::move(options)),
        protection_(std::move(protection)),
        optimizer_(trained(model_), torch::optim::AdamWOptions(options_.learning_rate)
                                        .betas(std::make_tuple(options_.adam_beta1, options_.adam_beta2))
                                        .eps(options_.adam_epsilon)
                                        .weight_decay(options_.weight_decay)) {
    check(options_);
  }

  /// The last, partial step of an epoch counts.
  std::int64_t steps_per_epoch() const {
    return (loss_.rows() + options_.rows_per_step() - 1) / options_.rows_per_step();
  }
  std::int64_t total_steps() const {
    return options_.max_steps > 0 ? options_.max_steps : steps_per_epoch() * options_.num_train_epochs;
  }
  std::int64_t step() const { return step_; }
  bool done() const { return step_ >= total_steps(); }
  const Protection& protection() const { return protection_; }

  StepRecord advance() {
    StepRecord record{.step = step_,
                      .learning_rate = options_.learning_rate * schedule(options_, step_, total_steps())};
    const Clock start(model_->device());
    protection_.prepare(step_);
    record.refresh_seconds = start.seconds();
    optimizer_.zero_grad();
    accumulate_gradients(record);
    const Clock update(model_->device());
    protection_.project_gradients();
    record.gradient_norm = clip();
    for (auto& group : optimizer_.param_groups()) group.options().set_lr(record.learning_rate);
    protection_.step(optimizer_);
    record.update_seconds = update.seconds();
    ++step_;
    record.seconds = start.seconds();
    return record;
  }

  /// \throws ogpsa::FileError
  void save(const std::filesystem::path& folder) {
    save_parameters(model_, folder / "model.safetensors");
    save_optimizer(model_, optimizer_, step_, folder / "optimizer.safetensors");
    protection_.save(folder);
  }
  void load(const std::filesystem::path& folder) {
    load_parameters(model_, folder / "model.safetensors");
    step_ = load_optimizer(model_, optimizer_, folder / "optimizer.safetensors");
    protection_.load(folder);
  }

 private:
  /// Of what a GPU was asked to do, it waits for the end.
  class Clock {
   public:
    explicit Clock(const torch::Device& device) : device_(device), start_(now()) {}
    double seconds() const { return std::chrono::duration<double>(now() - start_).count(); }

   private:
    std::chrono::steady_clock::time_point now() const {
      if (device_.is_cuda()) torch::cuda::synchronize(device_.index());
      return std::chrono::steady_clock::now();
    }
    torch::Device device_;
    std::chrono::steady_clock::time_point start_;
  };

  static std::vector<torch::Tensor> trained(CausalLm& model) {
    std::vector<torch::Tensor> parameters;
    for (const auto& p : model->parameters()) {
      if (p.requires_grad()) parameters.push_back(p);
    }
    return parameters;
  }
  std::vector<std::int64_t> rows_of(std::int64_t step) {
    const auto epoch = step / steps_per_epoch();
    if (epoch != epoch_) order_ = epoch_order(options_.seed, epoch, loss_.rows());
    epoch_ = epoch;
    const auto first = (step % steps_per_epoch()) * options_.rows_per_step();
    const auto last = std::min(loss_.rows(), first + options_.rows_per_step());
    return {order_.begin() + first, order_.begin() + last};
  }
  /// A function of the seed and the step alone.
  std::vector<std::int64_t> replayed_rows(std::int64_t step, std::size_t trained_rows) const {
    std::vector<std::int64_t> rows;
    if (replay_ == nullptr) return rows;
    Random random(Random(options_.seed + 1).next() ^ static_cast<std::uint64_t>(step));
    const auto count = std::lround(options_.replay_ratio * static_cast<double>(trained_rows));
    for (long i = 0; i < count; ++i) {
      rows.push_back(static_cast<std::int64_t>(random.below(static_cast<std::size_t>(replay_->rows()))));
    }
    return rows;
  }
  void accumulate_gradients(StepRecord& record) {
    const auto rows = rows_of(step_), replayed = replayed_rows(step_, rows.size());
    double weight = 0, sum = 0;
    for (const auto row : rows) weight += loss_.weight(row);
    for (const auto row : replayed) weight += replay_->weight(row);
    const auto add = [&](const Loss& loss, const std::vector<std::int64_t>& some) {
      for (const auto& batch : micro_batches(loss, some, options_.per_device_train_batch_size)) {
        const auto part = loss.sum(model_, batch);
        (part / weight).backward();
        sum += part.item<double>();
        record.tokens += loss.length(batch.front()) * static_cast<std::int64_t>(batch.size());
      }
    };
    add(loss_, rows);
    if (replay_ != nullptr) add(*replay_, replayed);
    record.loss = sum / weight;
  }
  double clip() {
    const double limit = options_.max_grad_norm > 0 ? options_.max_grad_norm : INFINITY;
    return torch::nn::utils::clip_grad_norm_(optimizer_.param_groups()[0].params(), limit);
  }

  CausalLm model_;
  const Loss& loss_;
  const Loss* replay_;
  TrainOptions options_;
  Protection protection_;
  torch::optim::AdamW optimizer_;
  std::int64_t step_ = 0, epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace align
