#include "app/command_line.hpp"

#include <string>

#include "app/commands.hpp"

namespace align {
namespace {

/// Adds an option to a group; lists are separated by commas.
template <class T>
CLI::Option* add(CLI::App& app, const char* group, const std::string& name, T& value, const std::string& what) {
  auto* option = app.add_option("--" + name, value, what)->group(group);
  if constexpr (requires { value.push_back(value.front()); } && !std::is_same_v<T, std::string>) {
    option->delimiter(',')->capture_default_str();
  } else {
    option->capture_default_str();
  }
  return option;
}

void add_stage_options(CLI::App& app, const std::string& stage, const char* group, StageSettings& options) {
  const auto named = [&](const std::string& name, auto& value, const std::string& what) {
    return add(app, group, stage + "_" + name, value, what);
  };
  auto& train = options.train;
  named("dataset", options.dataset, "Files to train on; without any the stage is left out")->check(CLI::ExistingFile);
  named("reference_dataset", options.reference_dataset, "General rows, for the projection; a file is an objective")
      ->check(CLI::ExistingFile);
  named("replay_dataset", options.replay_dataset, "General rows that are trained on beside the others")
      ->check(CLI::ExistingFile);
  named("max_rows", options.max_rows, "Of each training file, drawn by the seed; 0: all")
      ->check(CLI::NonNegativeNumber);
  named("learning_rate", train.learning_rate, "AdamW")->check(CLI::PositiveNumber);
  named("num_train_epochs", train.num_train_epochs, "")->check(CLI::PositiveNumber);
  named("max_steps", train.max_steps, "Optimizer steps; 0: as the epochs say")->check(CLI::NonNegativeNumber);
  named("per_device_train_batch_size", train.per_device_train_batch_size, "Rows of a micro-batch")
      ->check(CLI::PositiveNumber);
  named("gradient_accumulation_steps", train.gradient_accumulation_steps, "Micro-batches of an optimizer step")
      ->check(CLI::PositiveNumber);
  named("refresh_every", options.protection.refresh_every,
        "Optimizer steps between two estimates of the subspace; 0: it is estimated once")
      ->check(CLI::NonNegativeNumber);
}

/// What both stages share.
void add_training_options(CLI::App& app, TrainOptions& train) {
  const char* group = "Training";
  add(app, group, "weight_decay", train.weight_decay, "AdamW")->check(CLI::NonNegativeNumber);
  add(app, group, "adam_beta1", train.adam_beta1, "")->check(CLI::Range(0.0, 1.0));
  add(app, group, "adam_beta2", train.adam_beta2, "")->check(CLI::Range(0.0, 1.0));
  add(app, group, "adam_epsilon", train.adam_epsilon, "")->check(CLI::PositiveNumber);
  add(app, group, "max_grad_norm", train.max_grad_norm, "Clipping; 0: none")->check(CLI::NonNegativeNumber);
  add(app, group, "lr_scheduler_type", train.lr_scheduler_type, "")
      ->check(CLI::IsMember({"cosine", "linear", "constant"}));
  add(app, group, "warmup_ratio", train.warmup_ratio, "Share of the steps")->check(CLI::Range(0.0, 1.0));
  add(app, group, "replay_ratio", train.replay_ratio, "Replayed rows for each row of a step")
      ->check(CLI::NonNegativeNumber);
}

void add_protection_options(CLI::App& app, ProtectionOptions& o, RunOptions& options) {
  const char* group = "Protection";
  add(app, group, "reference_rows", options.reference_rows, "Of each reference file; 0: all")
      ->check(CLI::NonNegativeNumber);
  add(app, group, "reference_batch_size", o.batch_size, "Reference rows of a micro-batch")->check(CLI::PositiveNumber);
  add(app, group, "reference_loss", options.reference_loss, "DPO: loss of the reference rows")
      ->check(CLI::IsMember({"lm", "preference"}));
  add(app, group, "form", o.form, "structured: side of each matrix")->check(CLI::IsMember({"input", "output", "both"}));
  add(app, group, "max_share", o.max_share, "structured: share of a side's directions")->check(CLI::Range(0.0, 1.0));
  add(app, group, "damping", o.damping, "structured: 0: hard; else soft, relative to the mean eigenvalue")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--streaming", o.streaming, "A refresh updates the subspace instead of replacing it")->group(group);
  add(app, group, "forgetting", o.forgetting, "Weight of the old subspace at such a refresh")
      ->check(CLI::Range(0.0, 1.0));
  add(app, group, "basis_storage", o.basis_storage,
      "How flat subspaces are kept between refreshes; page_locked: float32 in the host's memory, with --device cuda")
      ->check(CLI::IsMember({"float32", "page_locked", "bfloat16", "int8"}));
  add(app, group, "protect", o.include,
      "Regular expression of the parameters that are protected; empty: all, structured: the matrices of the layers");
  add(app, group, "projection_mode", o.mode, "ogpsa, ogpsa-step")
      ->check(CLI::IsMember({"orthogonal", "conflicting", "one-sided", "inside"}));
  add(app, group, "projection_alpha", o.alpha, "Share of the component that is removed")->check(CLI::Range(0.0, 1.0));
  add(app, group, "projection_scale", o.scale, "conflicting: factor where there is no conflict");
}

}  // namespace

void add_model_options(CLI::App& app, const char* group, std::filesystem::path& model, std::filesystem::path& adapter) {
  add(app, group, "model_name_or_path", model,
      "Folder of a Hugging Face checkpoint, or of an adapter whose adapter_config.json names one")
      ->required()
      ->check(CLI::ExistingDirectory);
  add(app, group, "adapter", adapter, "Folder of a LoRA adapter of that checkpoint, as PEFT saves it")
      ->check(CLI::ExistingDirectory);
}

void add_device_option(CLI::App& app, const char* group, std::string& device) {
  add(app, group, "device", device, "cpu, cuda or cuda:N");
}

void add_text_options(CLI::App& app, TextOptions& o) {
  const char* group = "Text";
  add(app, group, "chat_template", o.chat_template, "llama3.1, qwen2.5, smollm2 or none; empty: by the model's own");
  add(app, group, "max_length", o.max_length, "Tokens of a row; longer ones are cut at the right")
      ->check(CLI::PositiveNumber);
  add(app, group, "dataset_format", o.dataset_format, "Layout of the rows; auto: by their keys");
  add(app, group, "on_bad_row", o.on_bad_row, "")->check(CLI::IsMember({"skip", "fail"}));
}

void add_evaluation_options(CLI::App& app, EvaluationOptions& o) {
  const char* group = "Evaluation";
  const auto files = [&](const char* name, Paths& paths, const char* what) {
    add(app, group, name, paths, what)->check(CLI::ExistingFile);
  };
  files("eval_loss", o.eval_loss, "General conversations: mean loss of the answers, perplexity");
  files("eval_safety_loss", o.eval_safety_loss, "Refusals: the same");
  files("eval_multiple_choice", o.eval_multiple_choice, "Accuracy by log-likelihood per token");
  files("eval_preference", o.eval_preference, "Pairs: how often the chosen answer is likelier per token");
  files("eval_harmful", o.eval_harmful, "Prompts that should be refused");
  files("eval_harmless", o.eval_harmless, "Prompts that should not");
  files("eval_exact_match", o.eval_exact_match, "Questions whose answer ends with a number (GSM8K)");
  add(app, group, "eval_rows", o.eval_rows, "Of each file; 0: all")->check(CLI::NonNegativeNumber);
  add(app, group, "eval_batch_size", o.eval_batch_size, "")->check(CLI::PositiveNumber);
  add(app, group, "max_new_tokens", o.max_new_tokens, "Of an answer that may be a refusal")->check(CLI::PositiveNumber);
  add(app, group, "exact_match_tokens", o.exact_match_tokens, "Of an answer to a question")->check(CLI::PositiveNumber);
}

void add_run_options(CLI::App& app, RunOptions& o) {
  app.set_config("--config", "", "TOML file with any of these options");
  add_model_options(app, "Run", o.model, o.adapter);
  add_device_option(app, "Run", o.device);
  add(app, "Run", "output_dir", o.output_dir, "The same command again goes on with it")->required();
  add(app, "Run", "seed", o.seed, "Order of the rows, and which are drawn");
  add(app, "Run", "dtype", o.dtype, "Of the saved weights: float32, bfloat16, float16; empty: as the checkpoint");
  app.add_flag("--bf16", o.bf16, "Matrix products in bfloat16; weights stay float32")->group("Run");
  app.add_flag("--gradient_checkpointing", o.gradient_checkpointing, "Less memory, one more forward pass")
      ->group("Run");
  add(app, "Run", "save_steps", o.save_steps, "Optimizer steps between checkpoints")->check(CLI::PositiveNumber);
  add(app, "Run", "logging_steps", o.logging_steps, "Optimizer steps between lines of blocks.jsonl")
      ->check(CLI::PositiveNumber);
  add_stage_options(app, "sft", "SFT", o.sft);
  add(app, "SFT", "label_smoothing_factor", o.label_smoothing_factor, "")->check(CLI::Range(0.0, 1.0));
  add_stage_options(app, "dpo", "DPO", o.dpo);
  add(app, "DPO", "beta", o.loss.beta, "")->check(CLI::PositiveNumber);
  add(app, "DPO", "loss_type", o.loss.loss_type, "")->check(CLI::IsMember({"sigmoid", "ipo", "hinge", "robust"}));
  add(app, "DPO", "label_smoothing", o.loss.label_smoothing, "")->check(CLI::Range(0.0, 0.499));
  add_training_options(app, o.sft.train);
  add_protection_options(app, o.sft.protection, o);
  add(app, "LoRA", "lora_r", o.lora.lora_r, "Rank of new adapters; 0: all weights are trained")
      ->check(CLI::NonNegativeNumber);
  add(app, "LoRA", "lora_alpha", o.lora.lora_alpha, "")->check(CLI::PositiveNumber);
  add(app, "LoRA", "lora_target_modules", o.lora.lora_target_modules, "");
  add_text_options(app, o.text);
  add_evaluation_options(app, o.evaluation);
}

void finish_run_options(RunOptions& o, const std::string& method) {
  o.sft.protection.method = method_of(method);
  if (is_structured(o.sft.protection.method) && o.sft.protection.include.empty()) {
    o.sft.protection.include = kMatrices;  // the rest has no sides: it would be protected as flat vectors
  }
  o.sft.train.seed = o.seed;
  const auto dpo = o.dpo;
  o.dpo.train = o.sft.train;
  o.dpo.protection = o.sft.protection;
  o.dpo.protection.refresh_every = dpo.protection.refresh_every;
  o.dpo.train.learning_rate = dpo.train.learning_rate;
  o.dpo.train.num_train_epochs = dpo.train.num_train_epochs;
  o.dpo.train.max_steps = dpo.train.max_steps;
  o.dpo.train.per_device_train_batch_size = dpo.train.per_device_train_batch_size;
  o.dpo.train.gradient_accumulation_steps = dpo.train.gradient_accumulation_steps;
}

}  // namespace align
