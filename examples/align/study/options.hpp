#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/model.hpp"
#include "study/tasks.hpp"
#include "train/options.hpp"
#include "train/protection.hpp"

/// \file
/// Every number of the study in one place.

namespace align {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModelConfig, vocab_size, hidden_size, intermediate_size, num_hidden_layers,
                                   num_attention_heads, num_key_value_heads, rope_theta, rms_norm_eps,
                                   tie_word_embeddings)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainOptions, learning_rate, weight_decay, adam_beta1, adam_beta2, adam_epsilon,
                                   max_grad_norm, warmup_ratio, num_train_epochs, per_device_train_batch_size,
                                   gradient_accumulation_steps, seed)
}  // namespace align

namespace align::study {

/// One stage of alignment, and what its arms differ in. Each arm is compared with the plain ones at equal safety, so
/// the learning rates need not be the same; the plain ones should reach from too little to more than enough safety.
struct StageOptions {
  TrainOptions train;
  std::vector<double> plain_learning_rates;
  double ogpsa_learning_rate, ogpsa_step_learning_rate, structured_learning_rate;
  std::int64_t published_refresh_every;  ///< of arm ogpsa, in optimizer steps
  std::int64_t refresh_every;            ///< of arms ogpsa-often, ogpsa-step and structured
};

struct StudyOptions {
  ModelConfig model;
  TaskSizes rows;
  std::int64_t max_length = 64;  ///< tokens
  std::uint64_t data_seed = 1;

  /// General SFT that makes the base model.
  TrainOptions base{.learning_rate = 3e-3,
                    .weight_decay = 0.01,
                    .warmup_ratio = 0.05,
                    .num_train_epochs = 4,
                    .per_device_train_batch_size = 32};
  StageOptions sft{.train = {.num_train_epochs = 4, .per_device_train_batch_size = 16},
                   .plain_learning_rates = {3e-5, 6e-5, 1e-4, 2e-4},
                   .ogpsa_learning_rate = 1.5e-4,
                   .ogpsa_step_learning_rate = 1.5e-4,
                   .structured_learning_rate = 3e-4,
                   .published_refresh_every = 30,
                   .refresh_every = 4};
  StageOptions dpo{.train = {.num_train_epochs = 4, .per_device_train_batch_size = 16},
                   .plain_learning_rates = {5e-5, 1e-4, 2e-4, 3e-4},
                   .ogpsa_learning_rate = 2e-4,
                   .ogpsa_step_learning_rate = 2e-4,
                   .structured_learning_rate = 4e-4,
                   .published_refresh_every = 5,
                   .refresh_every = 3};
  /// DPO that starts from what the SFT stage of the same arm made.
  StageOptions sft_dpo{.train = {.num_train_epochs = 2, .per_device_train_batch_size = 16},
                       .plain_learning_rates = {3e-5, 6e-5, 1e-4, 2e-4},
                       .ogpsa_learning_rate = 1e-4,
                       .ogpsa_step_learning_rate = 1e-4,
                       .structured_learning_rate = 2e-4,
                       .published_refresh_every = 5,
                       .refresh_every = 3};
  double beta = 0.05;      ///< of DPO
  double max_share = 0.2;  ///< structured: share of each matrix's inputs that is protected
  std::int64_t reference_batch_size = 16;
  /// General tasks without reference rows: does the protection reach beyond what it was shown?
  std::vector<std::string> unprotected_tasks = {};

  std::vector<std::uint64_t> seeds = {1, 2, 3};
  std::vector<std::string> stages = {"sft", "dpo", "sft-dpo"};
  std::vector<std::string> arms = {"plain", "ogpsa", "ogpsa-often", "ogpsa-step", "structured"};
  std::int64_t checkpoint_every = 100;  ///< optimizer steps
};

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TaskSizes, pretraining, safety, reference, heldout)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StageOptions, train, plain_learning_rates, ogpsa_learning_rate,
                                   ogpsa_step_learning_rate, structured_learning_rate, published_refresh_every,
                                   refresh_every)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(StudyOptions, model, rows, max_length, data_seed, base, sft, dpo, sft_dpo, beta,
                                   max_share, reference_batch_size, unprotected_tasks, seeds, stages, arms,
                                   checkpoint_every)

}  // namespace align::study
