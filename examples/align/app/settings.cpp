#include "app/settings.hpp"

#include <fmt/format.h>
#include <torch/torch.h>

#include <ogpsa/version.hpp>

namespace align {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TextOptions, chat_template, max_length, dataset_format, on_bad_row)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(LoraOptions, lora_r, lora_alpha, lora_target_modules)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(DpoOptions, loss_type, beta, label_smoothing)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(EvaluationOptions, eval_loss, eval_safety_loss, eval_multiple_choice,
                                   eval_preference, eval_harmful, eval_harmless, eval_exact_match, eval_rows,
                                   eval_batch_size, max_new_tokens, exact_match_tokens)

namespace {

using nlohmann::json;

json settings_of(const TrainOptions& o) {
  return {{"learning_rate", o.learning_rate},
          {"weight_decay", o.weight_decay},
          {"adam_beta1", o.adam_beta1},
          {"adam_beta2", o.adam_beta2},
          {"adam_epsilon", o.adam_epsilon},
          {"max_grad_norm", o.max_grad_norm},
          {"lr_scheduler_type", o.lr_scheduler_type},
          {"warmup_ratio", o.warmup_ratio},
          {"num_train_epochs", o.num_train_epochs},
          {"max_steps", o.max_steps},
          {"per_device_train_batch_size", o.per_device_train_batch_size},
          {"gradient_accumulation_steps", o.gradient_accumulation_steps},
          {"replay_ratio", o.replay_ratio}};
}

json settings_of(const ProtectionOptions& o) {
  json settings = {{"method", name(o.method)},
                   {"refresh_every", o.refresh_every},
                   {"max_share", o.max_share},
                   {"reference_batch_size", o.batch_size},
                   {"form", o.form},
                   {"damping", o.damping},
                   {"streaming", o.streaming},
                   {"forgetting", o.forgetting},
                   {"protect", o.include},
                   {"projection_mode", o.mode},
                   {"projection_alpha", o.alpha},
                   {"projection_scale", o.scale}};
  if (o.basis_storage != "float32")
    settings["basis_storage"] = o.basis_storage;  // so that a run begun without the option resumes
  return settings;
}

json settings_of(const StageSettings& o) {
  return {{"dataset", o.dataset},
          {"reference_dataset", o.reference_dataset},
          {"replay_dataset", o.replay_dataset},
          {"max_rows", o.max_rows},
          {"train", settings_of(o.train)},
          {"protection", settings_of(o.protection)}};
}

}  // namespace

json settings_of(const RunOptions& o) {
  json settings = {{"model", o.model},
                   {"text", o.text},
                   {"lora", o.lora},
                   {"evaluation", o.evaluation},
                   {"label_smoothing_factor", o.label_smoothing_factor},
                   {"reference_loss", o.reference_loss},
                   {"reference_rows", o.reference_rows},
                   {"dtype", o.dtype},
                   {"bf16", o.bf16},
                   {"gradient_checkpointing", o.gradient_checkpointing},
                   {"seed", o.seed},
                   {"versions",
                    {{"ogpsa", fmt::format("{}.{}.{}", OGPSA_VERSION_MAJOR, OGPSA_VERSION_MINOR, OGPSA_VERSION_PATCH)},
                     {"libtorch", TORCH_VERSION}}}};
  if (!o.adapter.empty()) settings["adapter"] = o.adapter;
  if (const auto kind = o.device.substr(0, o.device.find(':')); kind != "cpu") settings["device"] = kind;
  if (!o.sft.dataset.empty()) settings["sft"] = settings_of(o.sft);
  if (!o.dpo.dataset.empty()) settings["dpo"] = settings_of(o.dpo);
  if (!o.dpo.dataset.empty()) settings["dpo"]["loss"] = o.loss;
  return settings;
}

}  // namespace align
