#pragma once

#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "study/evaluate.hpp"
#include "study/plan.hpp"
#include "terminal/progress.hpp"
#include "terminal/stop.hpp"
#include "train/checkpoint.hpp"
#include "train/dpo.hpp"
#include "train/json_file.hpp"
#include "train/metrics.hpp"
#include "train/trainer.hpp"

/// \file
/// One run from start (or its last checkpoint) to result.

namespace align::study {

/// What a finished run leaves in result.json.
struct Result {
  Evaluation evaluation;
  double learning_rate = 0;
  std::int64_t refresh_every = 0;  ///< optimizer steps; 0: no projection
  double fraction_removed = 0;     ///< mean over the steps, of the gradient's (or step's) energy
  double seconds_per_step = 0;     ///< of the last sitting; all else is the same however often the run was interrupted
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Result, evaluation, learning_rate, refresh_every, fraction_removed, seconds_per_step)

/// The data of a study as tokens, and what every run shares. Const members may be used by several threads.
class Workbench {
 public:
  Workbench(StudyOptions options, const Tasks& tasks, std::filesystem::path folder)
      : options_(std::move(options)),
        folder_(std::move(folder)),
        tokenizer_(tasks.vocabulary),
        evaluator_(tasks, tokenizer_, options_.max_length) {
    options_.model.vocab_size = tokenizer_.size();
    std::vector<Row> refusals;
    for (const auto& row : tasks.safety) refusals.push_back({row.prompt, row.chosen});
    pretraining_ = sft_loss(tasks.pretraining);
    refusals_ = sft_loss(refusals);
    auto pairs = encode(tokenizer_, tasks.safety, options_.max_length);
    pairs_ = std::move(pairs.examples);
    dropped_ += pairs.dropped;
    for (const auto& [name, rows] : tasks.reference) {
      const auto& skip = options_.unprotected_tasks;
      if (std::count(skip.begin(), skip.end(), name) == 0) references_.push_back({name, sft_loss(rows)});
    }
    if (references_.size() + options_.unprotected_tasks.size() != tasks.reference.size()) {
      throw ogpsa::InvalidArgument(
          "an unprotected task is unknown or given twice; the tasks are those of summary.json");
    }
  }

  /// Rows whose answer lay beyond the maximum length.
  std::int64_t dropped() const { return dropped_; }

  bool finished(const Run& run) const { return std::filesystem::exists(folder_ / run.folder() / "result.json"); }
  Result result(const Run& run) const { return read_json(folder_ / run.folder() / "result.json").get<Result>(); }

  /// Rows that a run passes through the model, for the progress bar.
  double work(const Run& run) const {
    const auto examples = run_examples(run) * run.train.num_train_epochs;
    double rows = static_cast<double>(examples) + evaluator_.rows();
    if (run.protection.method == Method::plain) return rows;
    std::int64_t reference = 0;
    for (const auto& r : references_) reference += r.loss->rows();
    const auto per_step = run.train.rows_per_step() * (run.stage == "sft" ? 1 : 2);
    return rows + static_cast<double>(reference * (examples / per_step / run.protection.refresh_every + 1));
  }

  /// Trains and evaluates; a run that was interrupted goes on. \throws Interrupted when `stop` became true
  Result execute(const Run& run, Progress& progress, const std::atomic<bool>& stop) const {
    const auto folder = folder_ / run.folder();
    std::filesystem::create_directories(folder);
    const Checkpoints checkpoints(folder);
    CausalLm model(options_.model);
    if (run.start.empty()) {
      initialize(model, run.seed);
    } else {
      load_parameters(model, folder_ / run.start / "model.safetensors");
    }
    const auto loss = loss_of(run, model);
    Trainer trainer(model, *loss, run.train, Protection(model, references_, run.protection));
    checkpoints.restore([&](const auto& path) { trainer.load(path); }, [](const auto&) {});
    const auto start = std::chrono::steady_clock::now();
    const auto first = trainer.step();
    train(run, trainer, checkpoints, progress, stop);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    Result result{evaluator_(model), run.train.learning_rate, run.protection.refresh_every,
                  mean_fraction_removed(folder / "metrics.jsonl"),
                  seconds.count() / static_cast<double>(std::max<std::int64_t>(1, trainer.step() - first))};
    progress.advance(evaluator_.rows(), text_of(run));
    save_parameters(model, folder / "model.safetensors");
    write_file(folder / "result.json", nlohmann::json(result).dump(2) + "\n");
    checkpoints.remove();
    return result;
  }

 private:
  std::shared_ptr<const Loss> sft_loss(const std::vector<Row>& rows) {
    auto data = encode(tokenizer_, rows, options_.max_length);
    dropped_ += data.dropped;
    return std::make_shared<SftLoss>(std::move(data.examples), tokenizer_.padding());
  }
  void train(const Run& run, Trainer& trainer, const Checkpoints& checkpoints, Progress& progress,
             const std::atomic<bool>& stop) const {
    const double work_per_step = (work(run) - evaluator_.rows()) / static_cast<double>(trainer.total_steps());
    progress.skip(work_per_step * static_cast<double>(trainer.step()));
    Metrics metrics(folder_ / run.folder() / "metrics.jsonl", trainer.step());
    const auto save = [&] { checkpoints.save(trainer.step(), [&](const auto& path) { trainer.save(path); }); };
    while (!trainer.done()) {
      const auto record = trainer.advance();
      metrics.write(line_of(record, trainer.protection()));
      progress.advance(work_per_step, fmt::format("{}  loss {:.3f}", text_of(run), record.loss));
      if (stop) {
        save();
        throw Interrupted{};
      }
      if (trainer.step() % options_.checkpoint_every == 0) save();
    }
  }
  static std::string text_of(const Run& run) { return fmt::format("seed {} {} {}", run.seed, run.stage, run.arm); }
  std::int64_t run_examples(const Run& run) const {
    if (run.stage == "base") return pretraining_->rows();
    return run.stage == "sft" ? refusals_->rows() : static_cast<std::int64_t>(pairs_.size());
  }
  /// \param model  as the run starts with it: the reference policy of DPO
  std::shared_ptr<const Loss> loss_of(const Run& run, CausalLm& model) const {
    if (run.stage == "base") return pretraining_;
    if (run.stage == "sft") return refusals_;
    return std::make_shared<DpoLoss>(pairs_, tokenizer_.padding(),
                                     reference_log_probs(model, pairs_, tokenizer_.padding()),
                                     DpoOptions{.beta = options_.beta});
  }
  static nlohmann::json line_of(const StepRecord& record, const Protection& protection) {
    nlohmann::json line = {{"step", record.step},
                           {"loss", record.loss},
                           {"learning_rate", record.learning_rate},
                           {"gradient_norm", record.gradient_norm}};
    if (const auto projection = protection.record()) {
      line["fraction_removed"] = projection->fraction_removed;
      line["basis_age"] = projection->basis_age;
    }
    return line;
  }
  static double mean_fraction_removed(const std::filesystem::path& metrics) {
    double sum = 0, count = 0;
    std::ifstream file(metrics);
    for (std::string line; std::getline(file, line); ++count) {
      sum += nlohmann::json::parse(line).value("fraction_removed", 0.0);
    }
    return count > 0 ? sum / count : 0;
  }

  StudyOptions options_;
  std::filesystem::path folder_;
  WordTokenizer tokenizer_;
  Evaluator evaluator_;
  std::shared_ptr<const Loss> pretraining_, refusals_;
  std::vector<Example> pairs_;
  std::vector<Reference> references_;
  std::int64_t dropped_ = 0;
};

}  // namespace align::study
