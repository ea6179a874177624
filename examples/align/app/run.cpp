#include "app/run.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <numeric>

#include "app/device.hpp"
#include "app/settings.hpp"
#include "hugging_face/adapter.hpp"
#include "hugging_face/pretrained.hpp"
#include "report/cost.hpp"
#include "report/report.hpp"
#include "terminal/progress.hpp"
#include "terminal/stop.hpp"
#include "train/checkpoint.hpp"
#include "train/json_file.hpp"
#include "train/metrics.hpp"
#include "train/random.hpp"
#include "train/reference_cache.hpp"

namespace align {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// The trained parameters in float32, from which the next stage begins; removed in the end.
constexpr const char* kFinalFile = "final.safetensors";

/// "refusals 0.93  false refusals 0.20 ..."
std::string in_short(const json& evaluation) {
  std::string text;
  for (const auto& [name, value] : evaluation.items()) {
    if (value.is_number()) text += fmt::format("{}{} {:.3f}", text.empty() ? "" : "  ", name, value.get<double>());
  }
  return text;
}

json line_of(const StepRecord& record, const Protection& protection) {
  json line = {{"step", record.step},
               {"loss", record.loss},
               {"learning_rate", record.learning_rate},
               {"gradient_norm", record.gradient_norm},
               {"tokens", record.tokens},
               {"seconds", record.seconds},
               {"update_seconds", record.update_seconds},
               {"peak_memory", peak_memory()}};
  if (const auto projection = protection.record()) {
    line["refresh_seconds"] = record.refresh_seconds;
    line["fraction_removed"] = projection->fraction_removed;
    line["angle"] = projection->angle;
    line["basis_age"] = projection->basis_age;
  }
  return line;
}

/// "1.23 s a step, of these 0.05 s to update the weights; 3 refreshes, 12.1 s each; at most 4.40 GiB of memory"
std::string in_words(const json& cost) {
  auto text = fmt::format("{:.2f} s a step", cost.value("seconds_per_step", 0.0));
  if (cost.contains("update_seconds_per_step")) {
    text += fmt::format(", of these {:.3f} s to update the weights", cost.at("update_seconds_per_step").get<double>());
  }
  if (const auto refreshes = cost.value("refresh_seconds", std::vector<double>()); !refreshes.empty()) {
    const auto sum = std::accumulate(refreshes.begin(), refreshes.end(), 0.0);
    text += fmt::format("; {} estimate{} of the subspace, {:.2f} s each", refreshes.size(),
                        refreshes.size() == 1 ? "" : "s", sum / static_cast<double>(refreshes.size()));
  }
  return text + fmt::format("; at most {:.2f} GiB of memory", cost.value("peak_memory", 0.0) / (1 << 30));
}

/// With the folders of the checkpoint and of its adapter, if any, which says what is trained.
RunOptions with_model_found(RunOptions o) {
  const auto found = find_model(o.model, o.adapter);
  o.model = found.base;
  o.adapter = found.adapter;
  if (o.adapter.empty()) return o;
  const auto lora = adapter_options(o.adapter);
  const auto require = [&](const char* option, const auto& given, const auto& otherwise, const auto& own) {
    if (given == otherwise || given == own) return;
    throw ogpsa::InvalidArgument(fmt::format("the adapter '{}' has another {}; leave --{} out, or train a new adapter",
                                             o.adapter.string(), option, option));
  };
  const LoraOptions none;
  require("lora_r", o.lora.lora_r, none.lora_r, lora.lora_r);
  require("lora_alpha", o.lora.lora_alpha, none.lora_alpha, lora.lora_alpha);
  require("lora_target_modules", o.lora.lora_target_modules, none.lora_target_modules, lora.lora_target_modules);
  o.lora = lora;
  return o;
}

void check_protection(const StageSettings& settings, const std::string& stage, std::int64_t lora_r) {
  const auto& protection = settings.protection;
  if (protection.method == Method::plain) return;
  if (settings.reference_dataset.empty()) {
    throw ogpsa::InvalidArgument(
        fmt::format("--method {} needs --{}_reference_dataset: files of general rows", name(protection.method), stage));
  }
  if (protection.mode == "conflicting" && settings.reference_dataset.size() > 1) {
    throw ogpsa::InvalidArgument(fmt::format(
        "--projection_mode conflicting is defined for one objective, and --{}_reference_dataset has {} files; give one "
        "file, or use one-sided",
        stage, settings.reference_dataset.size()));
  }
  if (lora_r > 0 && is_structured(protection.method) && (protection.form != "input" || lora_r == 1)) {
    throw ogpsa::InvalidArgument(fmt::format(
        "--method {} protects adapters (LoRA) of rank 2 or more, and on their input side alone; --lora_r is {} and "
        "--form {}. Or use --method ogpsa-step, or train all weights (without --lora_r)",
        name(protection.method), lora_r, protection.form));
  }
}

}  // namespace

AlignmentRun::AlignmentRun(RunOptions options)
    : options_(with_model_found(std::move(options))),
      device_(device_of(options_.device)),
      loader_(options_.model, options_.text, [this](const std::string& line) { log(line); }) {
  if (!options_.sft.dataset.empty()) stages_.push_back({"sft", options_.sft, false});
  if (!options_.dpo.dataset.empty()) stages_.push_back({"dpo", options_.dpo, true});
  if (stages_.empty()) {
    throw ogpsa::InvalidArgument("there is nothing to train on; give --sft_dataset, --dpo_dataset, or both");
  }
  for (const auto& stage : stages_) {
    check(stage.settings.train);
    check_protection(stage.settings, stage.name, options_.lora.lora_r);
  }
  check(options_.loss);
  if (!options_.dtype.empty()) dtype_of(options_.dtype);
  evaluation_ = std::make_unique<const Evaluation>(loader_, options_.evaluation);
}

void AlignmentRun::log(const std::string& line) const {
  std::puts(line.c_str());  // where it cannot be written, the run goes on
  std::fflush(stdout);
}

void AlignmentRun::execute(const std::atomic<bool>& stop) {
  fs::create_directories(options_.output_dir);
  const auto advice = fmt::format(
      "what is saved in '{}' stays; once this is mended (a full disk: make room), the same command goes on from there",
      options_.output_dir.string());
  try {
    execute_stages(stop);
  } catch (const ogpsa::FileError& error) {
    throw ogpsa::FileError(fmt::format("{}\n{}", error.what(), advice));
  } catch (const fs::filesystem_error& error) {
    throw ogpsa::FileError(fmt::format("{}\n{}", error.what(), advice));
  }
}

void AlignmentRun::execute_stages(const std::atomic<bool>& stop) {
  check_settings(options_.output_dir / "settings.json", settings_of(options_),
                 "give another --output_dir, or the old options to go on with it");
  if (options_.bf16 && device_.is_cpu() && !has_bf16_products()) {
    log("note: this processor has no bfloat16 products (AVX512-BF16, AMX); without --bf16 the run will be faster");
  }
  auto model = load_pretrained(options_.model);
  model->computation = {options_.bf16, options_.gradient_checkpointing};
  if (!options_.adapter.empty()) load_adapter(model, options_.adapter);
  model->to(device_);
  evaluate_base(model);
  if (options_.adapter.empty() && options_.lora.lora_r > 0) add_adapters(model, options_.lora, options_.seed);
  for (const auto& stage : stages_) execute(stage, model, stop);
  write_summary();
  for (const auto& stage : stages_) fs::remove(options_.output_dir / stage.name / kFinalFile);
}

void AlignmentRun::evaluate_base(CausalLm& model) const {
  const auto path = options_.output_dir / "base.json";
  if (evaluation_->empty() || fs::exists(path)) return;
  const auto result = (*evaluation_)(model, [this](const auto& file) { log("base: evaluating " + file); });
  log("base: " + in_short(result));
  write_file(path, result.dump(2) + "\n");
}

bool AlignmentRun::finished(const Stage& stage) const {
  return fs::exists(options_.output_dir / stage.name / "result.json");
}

void AlignmentRun::execute(const Stage& stage, CausalLm& model, const std::atomic<bool>& stop) const {
  const auto folder = options_.output_dir / stage.name;
  fs::create_directories(folder);
  if (finished(stage)) {
    log(stage.name + ": done before");
    Checkpoints(folder).remove();
    if (!std::all_of(stages_.begin(), stages_.end(), [this](const auto& s) { return finished(s); })) {
      if (!fs::exists(folder / kFinalFile)) {
        throw ogpsa::FileError(
            fmt::format("'{}' is gone, with which the next stage begins; remove '{}' to train {} again",
                        (folder / kFinalFile).string(), (folder / "result.json").string(), stage.name));
      }
      load_parameters(model, folder / kFinalFile);
    }
    return;
  }
  const auto loss = loss_of(stage, model, stage.settings.dataset, stage.settings.max_rows, "reference_log_probs",
                            stage.settings.train.max_steps * stage.settings.train.rows_per_step());
  std::shared_ptr<const Loss> replay;
  if (!stage.settings.replay_dataset.empty()) {
    replay = loss_of(stage, model, stage.settings.replay_dataset, options_.reference_rows, "replay_log_probs");
  }
  Trainer trainer(model, *loss, stage.settings.train,
                  Protection(model, references_of(stage, model), stage.settings.protection), replay.get());
  train(stage, trainer, stop);
  save_parameters(model, folder / kFinalFile);
  save_model(stage, model);
  const auto result = result_of(stage, model);
  write_file(folder / "result.json", result.dump(2) + "\n");
  Checkpoints(folder).remove();
}

namespace {

/// As many pairs as a run sees that ends within its first epoch: the reference policy need not be asked for the others.
/// \param seen  0: all
std::vector<Example> pairs_seen(std::vector<Example> examples, std::int64_t seen, std::uint64_t seed) {
  std::vector<Example> result;
  for (const auto pair : drawn_rows(seed, seen, static_cast<std::int64_t>(examples.size() / 2))) {
    for (const auto i : {2 * pair, 2 * pair + 1}) result.push_back(std::move(examples[static_cast<std::size_t>(i)]));
  }
  return result;
}

}  // namespace

std::shared_ptr<const Loss> AlignmentRun::loss_of(const Stage& stage, CausalLm& model, const Paths& files,
                                                  std::int64_t rows, const std::string& cache,
                                                  std::int64_t seen) const {
  std::vector<Example> examples;
  for (const auto& file : files) {
    auto some = stage.preferences ? loader_.preferences(file, rows, options_.seed)
                                  : loader_.conversations(file, rows, options_.seed);
    std::move(some.begin(), some.end(), std::back_inserter(examples));
  }
  if (!stage.preferences) {
    return std::make_shared<SftLoss>(std::move(examples), loader_.padding(), options_.label_smoothing_factor);
  }
  examples = pairs_seen(std::move(examples), seen, options_.seed);
  const auto reference = cached_reference_log_probs(options_.output_dir / stage.name / (cache + ".safetensors"), model,
                                                    examples, loader_.padding(), options_.evaluation.eval_batch_size);
  return std::make_shared<DpoLoss>(std::move(examples), loader_.padding(), reference, options_.loss);
}

std::vector<Reference> AlignmentRun::references_of(const Stage& stage, CausalLm& model) const {
  std::vector<Reference> references;
  if (stage.settings.protection.method == Method::plain) return references;
  const bool preferences = stage.preferences && options_.reference_loss == "preference";
  for (const auto& file : stage.settings.reference_dataset) {
    const Stage kind{stage.name, stage.settings, preferences};
    const auto cache = "reference_of_" + file.stem().string();
    references.push_back({file.stem().string(), loss_of(kind, model, {file}, options_.reference_rows, cache)});
  }
  return references;
}

void AlignmentRun::train(const Stage& stage, Trainer& trainer, const std::atomic<bool>& stop) const {
  const auto folder = options_.output_dir / stage.name;
  const Checkpoints checkpoints(folder);
  checkpoints.restore([&](const auto& path) { trainer.load(path); }, [this](const auto& line) { log(line); });
  auto saved = trainer.step();
  if (trainer.step() > 0) log(fmt::format("{}: goes on at step {}", stage.name, trainer.step()));
  log(fmt::format("{}: {} steps of {} rows, {}", stage.name, trainer.total_steps(),
                  stage.settings.train.rows_per_step(), name(stage.settings.protection.method)));
  Metrics metrics(folder / "metrics.jsonl", trainer.step());
  Metrics blocks(folder / "blocks.jsonl", trainer.step());
  Progress progress(static_cast<double>(trainer.total_steps() - trainer.step()), 1, "steps");
  const auto save = [&] {
    if (saved != trainer.step()) checkpoints.save(trainer.step(), [&](const auto& path) { trainer.save(path); });
    saved = trainer.step();
  };
  const HeedsStop here;
  while (!trainer.done()) {
    const auto record = trainer.advance();
    metrics.write(line_of(record, trainer.protection()));
    if (record.step % options_.logging_steps == 0) blocks.write_text(trainer.protection().blocks_line());
    progress.advance(1, fmt::format("{} {}/{}  loss {:.3f}  {:.2f} s/step", stage.name, trainer.step(),
                                    trainer.total_steps(), record.loss, record.seconds));
    if (stop) {
      save();
      throw Interrupted{};
    }
    if (trainer.step() % options_.save_steps == 0 && !trainer.done()) save();
  }
  save();  // an evaluation that is interrupted need not train again
}

void AlignmentRun::save_model(const Stage& stage, CausalLm& model) const {
  const auto folder = options_.output_dir / stage.name / "model";
  const auto dtype = options_.dtype.empty() ? configured_dtype(options_.model) : dtype_of(options_.dtype);
  if (options_.lora.lora_r > 0) {
    save_adapter(model, folder, options_.model.string(), options_.lora, dtype);
  } else {
    save_pretrained(model, options_.model, folder, dtype);
  }
  log(fmt::format("{}: saved in {} as {}", stage.name, folder.string(), dtype_name(dtype)));
}

json AlignmentRun::result_of(const Stage& stage, CausalLm& model) const {
  std::vector<std::string> notes;
  json result = {
      {"cost", report::cost_of(report::read_metrics(options_.output_dir / stage.name, "metrics.jsonl", notes))}};
  log(fmt::format("{}: {}", stage.name, in_words(result["cost"])));
  if (evaluation_->empty()) return result;
  result["evaluation"] = (*evaluation_)(model, [&](const auto& file) { log(stage.name + ": evaluating " + file); });
  log(stage.name + ": " + in_short(result["evaluation"]));
  return result;
}

void AlignmentRun::write_summary() const {
  json summary = {{"settings", read_json(options_.output_dir / "settings.json")}};
  if (fs::exists(options_.output_dir / "base.json")) summary["base"] = read_json(options_.output_dir / "base.json");
  for (const auto& stage : stages_) {
    summary[stage.name] = read_json(options_.output_dir / stage.name / "result.json");
  }
  write_file(options_.output_dir / "summary.json", summary.dump(2) + "\n");
  write_report({options_.output_dir}, options_.output_dir / "report.html");
  log(fmt::format("summary.json and report.html in {}", options_.output_dir.string()));
}

}  // namespace align
