#pragma once

#include <torch/torch.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <numbers>
#include <string>
#include <vector>

#include "train/loss.hpp"
#include "train/protection.hpp"
#include "train/random.hpp"

namespace align {

/// Named as in Transformers.
struct TrainOptions {
  double learning_rate = 1e-3;
  double weight_decay = 0.0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;  ///< 0: no clipping
  double warmup_ratio = 0.0;   ///< share of the steps
  std::int64_t num_train_epochs = 1;
  std::int64_t per_device_train_batch_size = 16;
  std::int64_t gradient_accumulation_steps = 1;
  std::uint64_t seed = 0;

  /// Rows of an optimizer step.
  std::int64_t rows_per_step() const { return per_device_train_batch_size * gradient_accumulation_steps; }
};

/// Linear warm-up, then half a cosine to zero.
/// \return the factor of the learning rate at optimizer step `step` of `total`, from 0
inline double schedule(std::int64_t step, std::int64_t total, double warmup_ratio) {
  const double warmup = std::ceil(warmup_ratio * static_cast<double>(total));
  const double now = static_cast<double>(step);
  if (now < warmup) return now / warmup;
  return 0.5 * (1 + std::cos(std::numbers::pi * (now - warmup) / std::max(1.0, static_cast<double>(total) - warmup)));
}

/// What one optimizer step did.
struct StepRecord {
  std::int64_t step = 0;
  double loss = 0;  ///< mean over the rows of the step, before it
  double learning_rate = 0;
  double gradient_norm = 0;  ///< before clipping, after a projection of the gradient
};

/// Trains a model one optimizer step at a time. Everything a run needs to go on is in `save`.
class Trainer {
 public:
  /// \param loss  has to outlive the trainer
  Trainer(CausalLm model, const Loss& loss, TrainOptions options, Protection protection)
      : model_(std::move(model)),
        loss_(loss),
        options_(options),
        protection_(std::move(protection)),
        optimizer_(model_->parameters(), torch::optim::AdamWOptions(options.learning_rate)
                                             .betas(std::make_tuple(options.adam_beta1, options.adam_beta2))
                                             .eps(options.adam_epsilon)
                                             .weight_decay(options.weight_decay)) {}

  /// The last, partial step of an epoch counts.
  std::int64_t steps_per_epoch() const {
    return (loss_.rows() + options_.rows_per_step() - 1) / options_.rows_per_step();
  }
  std::int64_t total_steps() const { return steps_per_epoch() * options_.num_train_epochs; }
  std::int64_t step() const { return step_; }
  bool done() const { return step_ >= total_steps(); }
  const Protection& protection() const { return protection_; }

  StepRecord advance() {
    const auto rows = rows_of(step_);
    StepRecord record{step_, 0, options_.learning_rate * schedule(step_, total_steps(), options_.warmup_ratio), 0};
    protection_.prepare(step_);
    record.loss = accumulate_gradients(rows);
    protection_.project_gradients();
    record.gradient_norm = clip();
    for (auto& group : optimizer_.param_groups()) group.options().set_lr(record.learning_rate);
    protection_.step(optimizer_);
    ++step_;
    return record;
  }

  void save(const std::filesystem::path& folder) {
    torch::save(model_, (folder / "model.pt").string());
    torch::serialize::OutputArchive archive;
    optimizer_.save(archive);
    archive.write("step", torch::tensor(step_));
    archive.save_to((folder / "trainer.pt").string());
    protection_.save(folder);
  }
  void load(const std::filesystem::path& folder) {
    torch::load(model_, (folder / "model.pt").string());
    torch::serialize::InputArchive archive;
    archive.load_from((folder / "trainer.pt").string());
    optimizer_.load(archive);
    torch::Tensor step;
    archive.read("step", step);
    step_ = step.item<std::int64_t>();
    protection_.load(folder);
  }

 private:
  std::vector<std::int64_t> rows_of(std::int64_t step) {
    const auto epoch = step / steps_per_epoch();
    if (epoch != epoch_) order_ = epoch_order(options_.seed, epoch, loss_.rows());
    epoch_ = epoch;
    const auto first = (step % steps_per_epoch()) * options_.rows_per_step();
    const auto last = std::min(loss_.rows(), first + options_.rows_per_step());
    return {order_.begin() + first, order_.begin() + last};
  }
  /// \return the mean loss
  double accumulate_gradients(std::span<const std::int64_t> rows) {
    optimizer_.zero_grad();
    double weight = 0, sum = 0;
    for (const auto row : rows) weight += loss_.weight(row);
    const auto size = static_cast<std::size_t>(options_.per_device_train_batch_size);
    for (std::size_t first = 0; first < rows.size(); first += size) {
      const auto part = loss_.sum(model_, rows.subspan(first, std::min(size, rows.size() - first)));
      (part / weight).backward();
      sum += part.item<double>();
    }
    return sum / weight;
  }
  double clip() {
    const double limit = options_.max_grad_norm > 0 ? options_.max_grad_norm : INFINITY;
    return torch::nn::utils::clip_grad_norm_(model_->parameters(), limit);
  }

  CausalLm model_;
  const Loss& loss_;
  TrainOptions options_;
  Protection protection_;
  torch::optim::AdamW optimizer_;
  std::int64_t step_ = 0, epoch_ = -1;
  std::vector<std::int64_t> order_;
};

}  // namespace align
