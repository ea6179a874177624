#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <ogpsa/error.hpp>
#include <string>

namespace align {

/// Named as in Transformers' TrainingArguments.
struct TrainOptions {
  double learning_rate = 1e-3;
  double weight_decay = 0.0;
  double adam_beta1 = 0.9, adam_beta2 = 0.999, adam_epsilon = 1e-8;
  double max_grad_norm = 1.0;                ///< 0: no clipping
  std::string lr_scheduler_type = "cosine";  ///< cosine, linear or constant
  double warmup_ratio = 0.0;                 ///< share of the steps
  std::int64_t num_train_epochs = 1;
  std::int64_t max_steps = 0;  ///< optimizer steps; 0: as num_train_epochs says
  std::int64_t per_device_train_batch_size = 16;
  std::int64_t gradient_accumulation_steps = 1;
  double replay_ratio = 0.0;  ///< replayed rows for each row of a step
  std::uint64_t seed = 0;

  /// Rows of an optimizer step.
  std::int64_t rows_per_step() const { return per_device_train_batch_size * gradient_accumulation_steps; }
};

/// \throws ogpsa::InvalidArgument
inline void check(const TrainOptions& o) {
  if (o.lr_scheduler_type != "cosine" && o.lr_scheduler_type != "linear" && o.lr_scheduler_type != "constant") {
    throw ogpsa::InvalidArgument("lr_scheduler_type '" + o.lr_scheduler_type +
                                 "' is unknown; use cosine, linear or constant");
  }
  if (!(o.warmup_ratio >= 0 && o.warmup_ratio <= 1)) {
    throw ogpsa::InvalidArgument("warmup_ratio must be in [0, 1]: it is a share of the steps");
  }
}

/// Linear warm-up, then half a cosine or a line to zero, or constant, as in Transformers.
/// \return the factor of the learning rate at optimizer step `step` of `total`, from 0
inline double schedule(const TrainOptions& o, std::int64_t step, std::int64_t total) {
  const double warmup = std::ceil(o.warmup_ratio * static_cast<double>(total));
  const double now = static_cast<double>(step);
  if (now < warmup) return now / warmup;
  if (o.lr_scheduler_type == "constant") return 1;
  const double progress = (now - warmup) / std::max(1.0, static_cast<double>(total) - warmup);
  return o.lr_scheduler_type == "linear" ? 1 - progress : 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace align
