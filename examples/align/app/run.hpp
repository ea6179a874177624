#pragma once

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "app/datasets.hpp"
#include "app/evaluation.hpp"
#include "app/options.hpp"
#include "model/model.hpp"
#include "train/trainer.hpp"

namespace align {

/// Aligns one checkpoint: SFT, DPO, or one after the other. In output_dir:
///
///     settings.json             options and versions; a folder belongs to one set of them
///     base.json                 evaluation of the model that was given
///     sft/, dpo/                for each stage
///       metrics.jsonl           one line for each optimizer step
///       blocks.jsonl            what was removed from each block
///       checkpoint-N/           the last two
///       model/                  the result as a Hugging Face folder; with LoRA an adapter in PEFT's layout
///       result.json             its evaluation, and what the steps cost
///     summary.json              all of it in short
///     report.html               the same to look at
///
/// The same command goes on with what is there.
class AlignmentRun {
 public:
  /// \throws ogpsa::InvalidArgument, ogpsa::FileError, before anything is written
  explicit AlignmentRun(RunOptions options);

  /// \throws Interrupted when `stop` became true; a checkpoint has been written
  void execute(const std::atomic<bool>& stop);

 private:
  struct Stage {
    std::string name;
    const StageSettings& settings;
    bool preferences;
  };

  void log(const std::string& line) const;
  void execute_stages(const std::atomic<bool>& stop);
  void evaluate_base(CausalLm& model) const;
  bool finished(const Stage& stage) const;
  void execute(const Stage& stage, CausalLm& model, const std::atomic<bool>& stop) const;
  void train(const Stage& stage, Trainer& trainer, const std::atomic<bool>& stop) const;
  std::shared_ptr<const Loss> loss_of(const Stage& stage, CausalLm& model, const Paths& files, std::int64_t rows,
                                      const std::string& cache, std::int64_t seen = 0) const;
  std::vector<Reference> references_of(const Stage& stage, CausalLm& model) const;
  nlohmann::json result_of(const Stage& stage, CausalLm& model) const;
  void save_model(const Stage& stage, CausalLm& model) const;
  void write_summary() const;

  RunOptions options_;
  torch::Device device_;
  DatasetLoader loader_;
  std::unique_ptr<const Evaluation> evaluation_;
  std::vector<Stage> stages_;
};

}  // namespace align
