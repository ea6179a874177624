#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>
#include <vector>

#include "text/tokens.hpp"

namespace align {

/// A conversation as tokens.
struct Example {
  Tokens tokens;
  /// For each token, whether it belongs to an answer: its content, and the end of turn. By position, since the end of
  /// turn may be the padding token as well.
  std::vector<bool> answer;

  Example() = default;
  Example(Tokens tokens, std::vector<bool> answer) : tokens(std::move(tokens)), answer(std::move(answer)) {}
  /// One answer, from token `answer_begin` to the end.
  Example(Tokens tokens, std::size_t answer_begin) : tokens(std::move(tokens)), answer(this->tokens.size(), false) {
    std::fill(answer.begin() + static_cast<std::ptrdiff_t>(std::min(answer_begin, answer.size())), answer.end(), true);
  }

  std::int64_t answer_tokens() const { return std::count(answer.begin(), answer.end(), true); }
  /// Cuts at the right.
  void truncate(std::int64_t length) {
    if (static_cast<std::int64_t>(tokens.size()) <= length) return;
    tokens.resize(static_cast<std::size_t>(length));
    answer.resize(static_cast<std::size_t>(length));
  }
};

/// Rows as tokens, for SFT one example a row, for DPO two (chosen, rejected).
struct Dataset {
  std::vector<Example> examples;
  std::int64_t rows = 0;     ///< that are used
  std::int64_t cut = 0;      ///< of these, rows of which something lay beyond the maximum length
  std::int64_t dropped = 0;  ///< rows of which no answer is left below it

  /// Cuts the examples of a row to `max_length` tokens; a row of which an example has no answer then is dropped.
  void add(std::vector<Example> row, std::int64_t max_length) {
    bool longer = false;
    for (auto& example : row) {
      longer |= static_cast<std::int64_t>(example.tokens.size()) > max_length;
      example.truncate(max_length);
    }
    if (!std::all_of(row.begin(), row.end(), [](const Example& e) { return e.answer_tokens() > 0; })) {
      ++dropped;
      return;
    }
    ++rows;
    cut += longer;
    std::move(row.begin(), row.end(), std::back_inserter(examples));
  }
};

/// Examples side by side (B of them, T tokens, A answer tokens in total).
struct Batch {
  std::int64_t rows = 0;
  torch::Tensor ids;         ///< B x T, padded at the right
  torch::Tensor predictors;  ///< A: where in the flattened B x T stands the token that predicts an answer token
  torch::Tensor targets;     ///< A: the answer tokens
  torch::Tensor row;         ///< A: which example each belongs to
  Tokens kept;               ///< where in the flattened B x T stand tokens that are no padding
};

/// \param device  of the tensors: that of the model
inline Batch collate(std::span<const Example* const> examples, std::int64_t padding, const torch::Device& device) {
  std::size_t longest = 0;
  for (const auto* example : examples) longest = std::max(longest, example->tokens.size());
  Tokens ids, predictors, targets, row, kept;
  for (std::size_t b = 0; b < examples.size(); ++b) {
    const auto& [tokens, answer] = *examples[b];
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    ids.resize((b + 1) * longest, padding);
    for (std::size_t t = 0; t < tokens.size(); ++t) kept.push_back(static_cast<std::int64_t>(b * longest + t));
    for (std::size_t t = 1; t < tokens.size(); ++t) {
      if (!answer[t]) continue;
      predictors.push_back(static_cast<std::int64_t>(b * longest + t) - 1);
      targets.push_back(tokens[t]);
      row.push_back(static_cast<std::int64_t>(b));
    }
  }
  const auto rows = static_cast<std::int64_t>(examples.size());
  const auto tensor = [&](const Tokens& values) { return torch::tensor(values, torch::kInt64).to(device); };
  return {rows,
          tensor(ids).view({rows, static_cast<std::int64_t>(longest)}),
          tensor(predictors),
          tensor(targets),
          tensor(row),
          std::move(kept)};
}

}  // namespace align
