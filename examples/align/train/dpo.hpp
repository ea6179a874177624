#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <ogpsa/error.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "train/loss.hpp"

/// \file
/// Direct preference optimisation and its variants, named as in TRL. d is the log-ratio of the policy to the frozen
/// reference policy for the chosen answer, less that for the rejected one.

namespace align {

struct DpoOptions {
  /// sigmoid  -log sigmoid(beta d)                            Rafailov et al. 2023; with label smoothing e,
  ///                                                          cDPO: -(1-e) log sigmoid(beta d) - e log sigmoid(-beta d)
  /// ipo      (d - 1 / (2 beta))^2, d per token of an answer  Azar et al. 2023
  /// hinge    max(0, 1 - beta d)                              Zhao et al. 2023
  /// robust   (-(1-e) log sigmoid(beta d) + e log sigmoid(-beta d)) / (1 - 2e)   Chowdhury et al. 2024
  std::string loss_type = "sigmoid";
  double beta = 0.1;
  double label_smoothing = 0;  ///< e, in [0, 0.5): how often the labels are taken to be wrong
};

/// \throws ogpsa::InvalidArgument
inline void check(const DpoOptions& o) {
  const auto known = {"sigmoid", "ipo", "hinge", "robust"};
  if (std::find(known.begin(), known.end(), o.loss_type) == known.end()) {
    throw ogpsa::InvalidArgument("loss_type '" + o.loss_type + "' is unknown; use sigmoid, ipo, hinge or robust");
  }
  if (!(o.beta > 0)) throw ogpsa::InvalidArgument("beta must be positive");
  if (!(o.label_smoothing >= 0 && o.label_smoothing < 0.5)) {
    throw ogpsa::InvalidArgument("label_smoothing of DPO must be in [0, 0.5)");
  }
}

/// The losses of pairs (B). \param difference  d, B
inline torch::Tensor dpo_losses(const torch::Tensor& difference, const DpoOptions& o) {
  const auto x = o.beta * difference;
  const double e = o.label_smoothing;
  if (o.loss_type == "ipo") return (difference - 1 / (2 * o.beta)).square();
  if (o.loss_type == "hinge") return torch::relu(1 - x);
  if (o.loss_type == "robust") {
    return (-(1 - e) * torch::log_sigmoid(x) + e * torch::log_sigmoid(-x)) / (1 - 2 * e);
  }
  if (e == 0) return -torch::log_sigmoid(x);
  return -(1 - e) * torch::log_sigmoid(x) - e * torch::log_sigmoid(-x);
}

/// DPO against log-probabilities of the reference policy that were computed once; each pair weighs 1.
class DpoLoss : public Loss {
 public:
  /// \param examples   chosen and rejected answers in turn
  /// \param reference  rows x 2 on the CPU, from `reference_log_probs`
  DpoLoss(std::vector<Example> examples, std::int64_t padding, torch::Tensor reference, DpoOptions options)
      : examples_(std::move(examples)),
        padding_(padding),
        reference_(std::move(reference)),
        options_(std::move(options)) {
    check(options_);
  }

  std::int64_t rows() const override { return static_cast<std::int64_t>(examples_.size() / 2); }
  double weight(std::int64_t) const override { return 1; }
  std::int64_t length(std::int64_t row) const override {
    return 2 * static_cast<std::int64_t>(std::max(at(2 * row).tokens.size(), at(2 * row + 1).tokens.size()));
  }
  torch::Tensor sum(CausalLm& model, std::span<const std::int64_t> rows) const override {
    std::vector<const Example*> picked;
    std::vector<double> tokens;
    for (const auto row : rows) {
      for (const auto i : {2 * row, 2 * row + 1}) {
        picked.push_back(&at(i));
        tokens.push_back(static_cast<double>(at(i).answer_tokens()));
      }
    }
    const auto index = torch::tensor(Tokens(rows.begin(), rows.end()), torch::kInt64);
    const auto policy = sequence_log_probs(model, collate(picked, padding_, model->device())).view({-1, 2});
    auto ratios = policy - reference_.index_select(0, index).to(policy.device());
    if (options_.loss_type == "ipo") ratios = ratios / torch::tensor(tokens, ratios.options()).view({-1, 2});
    return dpo_losses(ratios.select(1, 0) - ratios.select(1, 1), options_).sum();
  }

 private:
  const Example& at(std::int64_t i) const { return examples_.at(static_cast<std::size_t>(i)); }

  std::vector<Example> examples_;
  std::int64_t padding_;
  torch::Tensor reference_;
  DpoOptions options_;
};

/// Log-probabilities of answers (the number of examples), on the CPU and without a graph. Examples of similar length go
/// together.
inline torch::Tensor log_probs_of(CausalLm& model, const std::vector<Example>& examples, std::int64_t padding,
                                  std::size_t batch_size = 64) {
  const torch::NoGradGuard no_grad;
  std::vector<std::size_t> order(examples.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](auto a, auto b) { return examples[a].tokens.size() < examples[b].tokens.size(); });
  auto result = torch::zeros({static_cast<std::int64_t>(examples.size())});
  for (std::size_t first = 0; first < order.size(); first += batch_size) {
    std::vector<const Example*> picked;
    Tokens index;
    for (auto i = first; i < std::min(order.size(), first + batch_size); ++i) {
      picked.push_back(&examples[order[i]]);
      index.push_back(static_cast<std::int64_t>(order[i]));
    }
    const auto part = sequence_log_probs(model, collate(picked, padding, model->device()));
    result.index_copy_(0, torch::tensor(index, torch::kInt64), part.to(torch::kCPU));
  }
  return result;
}

/// Log-probabilities of chosen and rejected answers (rows x 2) under the model as it is now, the reference policy.
inline torch::Tensor reference_log_probs(CausalLm& model, const std::vector<Example>& examples, std::int64_t padding,
                                         std::size_t batch_size = 64) {
  return log_probs_of(model, examples, padding, batch_size).view({-1, 2});
}

}  // namespace align
