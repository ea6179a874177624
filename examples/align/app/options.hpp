#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "model/lora.hpp"
#include "train/dpo.hpp"
#include "train/options.hpp"
#include "train/protection.hpp"

/// \file
/// What the commands train and evaluate can be told, with its defaults.

namespace align {

using Paths = std::vector<std::filesystem::path>;

/// How rows become tokens.
struct TextOptions {
  std::string chat_template = {};  ///< llama3.1, qwen2.5, smollm2 or none; empty: by the model's own
  std::int64_t max_length = 512;   ///< tokens; longer rows are cut at the right
  std::string dataset_format = "auto";
  std::string on_bad_row = "skip";  ///< skip or fail
};

/// Held-out files. Each is evaluated by itself.
struct EvaluationOptions {
  Paths eval_loss, eval_safety_loss;  ///< conversations: mean loss of the answers; general ones, and refusals
  Paths eval_multiple_choice;         ///< accuracy by length-normalised log-likelihood
  Paths eval_preference;              ///< how often the chosen answer is likelier per token
  Paths eval_harmful, eval_harmless;  ///< prompts: how many are refused
  Paths eval_exact_match;             ///< questions whose answer is a number at the end (GSM8K)
  std::int64_t eval_rows = 100;       ///< of each file, drawn by a fixed seed; 0: all
  std::int64_t eval_batch_size = 16;
  std::int64_t max_new_tokens = 32;       ///< of an answer that is looked at for a refusal
  std::int64_t exact_match_tokens = 256;  ///< of an answer to a question
};

/// One stage: SFT or DPO.
struct StageSettings {
  Paths dataset;            ///< empty: the stage is left out
  Paths reference_dataset;  ///< general rows; each file is a reference objective
  Paths replay_dataset;
  std::int64_t max_rows = 0;  ///< of each training file, drawn by the seed; 0: all
  TrainOptions train;
  ProtectionOptions protection;
};

struct RunOptions {
  std::filesystem::path model;    ///< a checkpoint, or an adapter that names one
  std::filesystem::path adapter;  ///< in PEFT's layout, to go on with; empty: none
  std::filesystem::path output_dir;
  TextOptions text;
  StageSettings sft, dpo;
  DpoOptions loss;
  double label_smoothing_factor = 0;  ///< of SFT
  std::string reference_loss = "lm";  ///< of DPO's reference objectives: lm, or preference
  std::int64_t reference_rows = 96;   ///< of each reference file, drawn by the seed; 0: all
  LoraOptions lora;
  EvaluationOptions evaluation;
  std::string dtype = {};      ///< of the saved weights: float32, bfloat16, float16; empty: as config.json says
  std::string device = "cpu";  ///< cpu, cuda or cuda:N
  bool bf16 = false, gradient_checkpointing = false;
  std::int64_t save_steps = 100, logging_steps = 1;
  std::uint64_t seed = 0;
};

}  // namespace align
