#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "app/datasets.hpp"
#include "model/model.hpp"

namespace align {

/// Whether an answer refuses, by key phrases in its lower-case text (with typographic apostrophes made plain).
bool is_refusal(const std::string& answer);
/// The last number of a text, without thousands separators, currency signs and trailing zeros; empty: there is none.
std::string last_number(const std::string& text);

/// Held-out rows, read once; what a model makes of them.
class Evaluation {
 public:
  /// \throws ogpsa::FileError, ogpsa::InvalidArgument
  Evaluation(const DatasetLoader& loader, const EvaluationOptions& options);

  bool empty() const;
  /// {"files": {NAME: {"kind": ..., "rows": ..., numbers of that kind}}, and over the files of each kind, rows alike:
  ///  "general_loss", "safety_loss" (nats per answer token, mean over files), "accuracy", "preference_accuracy",
  ///  "refusals" (of harmful prompts), "false_refusals", "exact_match"}; what has no file is left out.
  /// \param log  told the name of each file before it is evaluated
  nlohmann::json operator()(CausalLm& model, const std::function<void(const std::string&)>& log) const;

 private:
  struct LossFile {
    std::string name, kind;
    std::vector<Example> examples;
  };
  struct PreferenceFile {
    std::string name;
    std::vector<Example> examples;  // chosen and rejected in turn
  };
  struct ChoiceFile {
    std::string name;
    std::vector<MultipleChoice> rows;
    std::vector<Example> examples;  // all choices of all rows
  };
  struct PromptFile {
    std::string name, kind;
    std::vector<Tokens> prompts;
    std::vector<std::string> answers;  // exact match: what is wanted
  };

  nlohmann::json loss(CausalLm& model, const LossFile& file) const;
  nlohmann::json preference(CausalLm& model, const PreferenceFile& file) const;
  nlohmann::json choice(CausalLm& model, const ChoiceFile& file) const;
  nlohmann::json answers(CausalLm& model, const PromptFile& file) const;

  EvaluationOptions options_;
  const DatasetLoader& loader_;
  std::vector<LossFile> loss_;
  std::vector<PreferenceFile> preference_;
  std::vector<ChoiceFile> choice_;
  std::vector<PromptFile> prompts_;
};

}  // namespace align
