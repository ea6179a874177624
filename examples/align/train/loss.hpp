#pragma once

#include <torch/torch.h>

#include <span>
#include <utility>
#include <vector>

#include "model/model.hpp"
#include "train/example.hpp"

namespace align {

/// Log-probabilities of the whole vocabulary (A x V, float32) at the answer tokens of a batch. Logits are computed for
/// these positions alone.
inline torch::Tensor answer_log_softmax(CausalLm& model, const Batch& batch) {
  if (model->observer.see) model->observer.tokens = torch::tensor(batch.kept, torch::kInt64).to(model->device());
  const auto hidden = model->hidden(batch.ids).flatten(0, 1).index_select(0, batch.predictors);
  return torch::log_softmax(model->logits(hidden), -1, torch::kFloat32);
}

/// Log-probability of each answer token (A).
inline torch::Tensor answer_log_probs(CausalLm& model, const Batch& batch) {
  return answer_log_softmax(model, batch).gather(1, batch.targets.unsqueeze(1)).squeeze(1);
}

/// Sums of the answers' log-probabilities (B).
inline torch::Tensor sequence_log_probs(CausalLm& model, const Batch& batch) {
  const auto tokens = answer_log_probs(model, batch);
  return torch::zeros({batch.rows}, tokens.options()).index_add(0, batch.row, tokens);
}

/// What is minimised: a weighted mean over rows. It is given as a sum, so that the mean over the rows of an optimizer
/// step (or of a reference objective) does not depend on how they are cut into micro-batches.
class Loss {
 public:
  virtual ~Loss() = default;
  virtual std::int64_t rows() const = 0;
  /// What one row counts for in the mean.
  virtual double weight(std::int64_t row) const = 0;
  /// Tokens of a row (of both answers of a pair), to put rows of similar length side by side.
  virtual std::int64_t length(std::int64_t row) const = 0;
  /// Sum over `rows`, a scalar with a graph. The mean is this divided by the sum of the rows' weights.
  virtual torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const = 0;
};

/// Cross entropy of the answer tokens; a row weighs its number of answer tokens.
class SftLoss : public Loss {
 public:
  /// \param label_smoothing  share of the target that is spread evenly over the vocabulary
  SftLoss(std::vector<Example> examples, std::int64_t padding, double label_smoothing = 0)
      : examples_(std::move(examples)), padding_(padding), label_smoothing_(label_smoothing) {}

  std::int64_t rows() const override { return static_cast<std::int64_t>(examples_.size()); }
  double weight(std::int64_t row) const override { return static_cast<double>(at(row).answer_tokens()); }
  std::int64_t length(std::int64_t row) const override { return static_cast<std::int64_t>(at(row).tokens.size()); }
  torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const override {
    std::vector<const Example*> picked;
    for (const auto row : rows) picked.push_back(&at(row));
    const auto batch = collate(picked, padding_, model->device());
    const auto log_probs = answer_log_softmax(model, batch);
    const auto targets = log_probs.gather(1, batch.targets.unsqueeze(1)).sum();
    if (label_smoothing_ == 0) return -targets;
    return -((1 - label_smoothing_) * targets + label_smoothing_ * log_probs.mean(-1).sum());
  }

 private:
  const Example& at(std::int64_t row) const { return examples_.at(static_cast<std::size_t>(row)); }

  std::vector<Example> examples_;
  std::int64_t padding_;
  double label_smoothing_;
};

/// The loss over all its rows, without a graph.
inline double mean(const Loss& loss, CausalLm& model, std::int64_t batch_size = 64) {
  const torch::NoGradGuard no_grad;
  double sum = 0, weight = 0;
  for (std::int64_t first = 0; first < loss.rows(); first += batch_size) {
    Tokens rows;
    for (auto row = first; row < std::min(loss.rows(), first + batch_size); ++row) {
      rows.push_back(row);
      weight += loss.weight(row);
    }
    sum += loss.sum(model, rows).item<double>();
  }
  return sum / weight;
}

}  // namespace align
