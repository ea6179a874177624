#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <span>
#include <string>
#include <vector>

#include "tokenizer.hpp"

namespace align {

/// A prompt and the answer that is wanted.
struct Row {
  std::string prompt, answer;
};

/// A prompt, the answer that is wanted, and one that is not.
struct PreferenceRow {
  std::string prompt, chosen, rejected;
};

/// A conversation as tokens. The answer, its end of turn included, is [answer_begin, size): by position, since the end
/// of turn may be the padding token as well.
struct Example {
  Tokens tokens;
  std::int64_t answer_begin = 0;

  std::int64_t answer_tokens() const {
    return std::max<std::int64_t>(0, static_cast<std::int64_t>(tokens.size()) - answer_begin);
  }
};

/// Cut to `max_length` tokens at the right.
inline Example encode(const Tokenizer& tokenizer, const std::string& prompt, const std::string& answer,
                      std::int64_t max_length) {
  Example example{tokenizer.chat(prompt), 0};
  example.answer_begin = static_cast<std::int64_t>(example.tokens.size());
  for (const auto token : tokenizer.encode(answer)) example.tokens.push_back(token);
  example.tokens.push_back(tokenizer.end());
  if (example.tokens.size() > static_cast<std::size_t>(max_length)) {
    example.tokens.resize(static_cast<std::size_t>(max_length));
  }
  return example;
}

/// Rows as tokens, for SFT one example a row, for DPO two (chosen, rejected).
struct Dataset {
  std::vector<Example> examples;
  std::int64_t dropped = 0;  ///< rows whose answer lay beyond the maximum length
};

namespace detail {

inline void check_rows_left(const Dataset& data, std::size_t rows, std::int64_t max_length) {
  if (!data.examples.empty()) return;
  if (rows == 0) throw ogpsa::InvalidArgument("there are no rows to train on; check the data");
  throw ogpsa::InvalidArgument("no answer of " + std::to_string(rows) + " rows fits in max_length = " +
                               std::to_string(max_length) + " tokens; raise max_length");
}

}  // namespace detail

/// Drops and counts the rows whose answer is cut away. \throws ogpsa::InvalidArgument when none is left
inline Dataset encode(const Tokenizer& tokenizer, const std::vector<Row>& rows, std::int64_t max_length) {
  Dataset data;
  for (const auto& row : rows) {
    auto example = encode(tokenizer, row.prompt, row.answer, max_length);
    if (example.answer_tokens() > 0) {
      data.examples.push_back(std::move(example));
    } else {
      ++data.dropped;
    }
  }
  detail::check_rows_left(data, rows.size(), max_length);
  return data;
}

/// The same for preferences: example 2i is the chosen answer of row i, 2i + 1 the rejected one.
inline Dataset encode(const Tokenizer& tokenizer, const std::vector<PreferenceRow>& rows, std::int64_t max_length) {
  Dataset data;
  for (const auto& row : rows) {
    auto chosen = encode(tokenizer, row.prompt, row.chosen, max_length);
    auto rejected = encode(tokenizer, row.prompt, row.rejected, max_length);
    if (std::min(chosen.answer_tokens(), rejected.answer_tokens()) > 0) {
      data.examples.push_back(std::move(chosen));
      data.examples.push_back(std::move(rejected));
    } else {
      ++data.dropped;
    }
  }
  detail::check_rows_left(data, rows.size(), max_length);
  return data;
}

/// Examples side by side (B of them, T tokens, A answer tokens in total).
struct Batch {
  std::int64_t rows = 0;
  torch::Tensor ids;         ///< B x T, padded at the right
  torch::Tensor predictors;  ///< A: where in the flattened B x T stands the token that predicts an answer token
  torch::Tensor targets;     ///< A: the answer tokens
  torch::Tensor row;         ///< A: which example each belongs to
};

inline Batch collate(std::span<const Example* const> examples, std::int64_t padding) {
  std::size_t longest = 0;
  for (const auto* example : examples) longest = std::max(longest, example->tokens.size());
  Tokens ids, predictors, targets, row;
  for (std::size_t b = 0; b < examples.size(); ++b) {
    const auto& tokens = examples[b]->tokens;
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    ids.resize((b + 1) * longest, padding);
    for (auto t = static_cast<std::size_t>(examples[b]->answer_begin); t < tokens.size(); ++t) {
      predictors.push_back(static_cast<std::int64_t>(b * longest + t) - 1);
      targets.push_back(tokens[t]);
      row.push_back(static_cast<std::int64_t>(b));
    }
  }
  const auto rows = static_cast<std::int64_t>(examples.size());
  const auto tensor = [](const Tokens& values) { return torch::tensor(values, torch::kInt64); };
  return {rows, tensor(ids).view({rows, static_cast<std::int64_t>(longest)}), tensor(predictors), tensor(targets),
          tensor(row)};
}

}  // namespace align
