#pragma once

#include <torch/torch.h>

#include <span>
#include <utility>
#include <vector>

#include "data.hpp"
#include "model.hpp"

namespace align {

/// Log-probability of each answer token (A), in float32 whatever the model's type. Logits are computed for these
/// positions alone.
inline torch::Tensor answer_log_probs(CausalLm& model, const Batch& batch) {
  const auto hidden = model->hidden(batch.ids).flatten(0, 1).index_select(0, batch.predictors);
  const auto log_probs = torch::log_softmax(model->logits(hidden), -1, torch::kFloat32);
  return log_probs.gather(1, batch.targets.unsqueeze(1)).squeeze(1);
}

/// Sums of the answers' log-probabilities (B).
inline torch::Tensor sequence_log_probs(CausalLm& model, const Batch& batch) {
  const auto tokens = answer_log_probs(model, batch);
  return torch::zeros({batch.rows}, tokens.options()).index_add(0, batch.row, tokens);
}

/// DPO (Rafailov et al. 2023): -log sigmoid(beta (log-ratio chosen - log-ratio rejected)) for each pair.
/// \param chosen, rejected            log-probabilities under the policy
/// \param reference_chosen, _rejected log-probabilities under the frozen reference policy
inline torch::Tensor dpo_losses(const torch::Tensor& chosen, const torch::Tensor& rejected,
                                const torch::Tensor& reference_chosen, const torch::Tensor& reference_rejected,
                                double beta) {
  return -torch::log_sigmoid(beta * ((chosen - reference_chosen) - (rejected - reference_rejected)));
}

/// What is minimised: a weighted mean over rows. It is given as a sum, so that the mean over the rows of an optimizer
/// step (or of a reference objective) does not depend on how they are cut into micro-batches.
class Loss {
 public:
  virtual ~Loss() = default;
  virtual std::int64_t rows() const = 0;
  /// What one row counts for in the mean.
  virtual double weight(std::int64_t row) const = 0;
  /// Sum over `rows`, a scalar with a graph. The mean is this divided by the sum of the rows' weights.
  virtual torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const = 0;
};

/// Cross entropy of the answer tokens; a row weighs its number of answer tokens.
class SftLoss : public Loss {
 public:
  SftLoss(std::vector<Example> examples, std::int64_t padding) : examples_(std::move(examples)), padding_(padding) {}

  std::int64_t rows() const override { return static_cast<std::int64_t>(examples_.size()); }
  double weight(std::int64_t row) const override { return static_cast<double>(at(row).answer_tokens()); }
  torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const override {
    std::vector<const Example*> picked;
    for (const auto row : rows) picked.push_back(&at(row));
    return -answer_log_probs(model, collate(picked, padding_)).sum();
  }

 private:
  const Example& at(std::int64_t row) const { return examples_.at(static_cast<std::size_t>(row)); }

  std::vector<Example> examples_;
  std::int64_t padding_;
};

/// DPO against log-probabilities of the reference policy that were computed once; each pair weighs 1.
class DpoLoss : public Loss {
 public:
  /// \param examples   chosen and rejected answers in turn
  /// \param reference  rows x 2, from `reference_log_probs`
  DpoLoss(std::vector<Example> examples, std::int64_t padding, torch::Tensor reference, double beta)
      : examples_(std::move(examples)), padding_(padding), reference_(std::move(reference)), beta_(beta) {}

  std::int64_t rows() const override { return static_cast<std::int64_t>(examples_.size() / 2); }
  double weight(std::int64_t) const override { return 1; }
  torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const override {
    std::vector<const Example*> picked;
    for (const auto row : rows) {
      picked.push_back(&examples_.at(static_cast<std::size_t>(2 * row)));
      picked.push_back(&examples_.at(static_cast<std::size_t>(2 * row + 1)));
    }
    const auto policy = sequence_log_probs(model, collate(picked, padding_)).view({-1, 2});
    const auto index = torch::tensor(Tokens(rows.begin(), rows.end()), torch::kInt64);
    const auto reference = reference_.index_select(0, index);
    return dpo_losses(policy.select(1, 0), policy.select(1, 1), reference.select(1, 0), reference.select(1, 1), beta_)
        .sum();
  }

 private:
  std::vector<Example> examples_;
  std::int64_t padding_;
  torch::Tensor reference_;
  double beta_;
};

/// Log-probabilities of answers (the number of examples), without a graph.
inline torch::Tensor log_probs_of(CausalLm& model, const std::vector<Example>& examples, std::int64_t padding,
                                  std::size_t batch_size = 64) {
  const torch::NoGradGuard no_grad;
  std::vector<torch::Tensor> parts;
  for (std::size_t first = 0; first < examples.size(); first += batch_size) {
    std::vector<const Example*> picked;
    for (auto i = first; i < std::min(examples.size(), first + batch_size); ++i) picked.push_back(&examples[i]);
    parts.push_back(sequence_log_probs(model, collate(picked, padding)));
  }
  return torch::cat(parts);
}

/// Log-probabilities of chosen and rejected answers (rows x 2) under the model as it is now, the reference policy.
inline torch::Tensor reference_log_probs(CausalLm& model, const std::vector<Example>& examples, std::int64_t padding) {
  return log_probs_of(model, examples, padding).view({-1, 2});
}

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
