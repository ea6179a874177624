#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "study/word_tokenizer.hpp"
#include "train/example.hpp"

namespace align::study {

/// A prompt and the answer that is wanted.
struct Row {
  std::string prompt, answer;
};

/// A prompt, the answer that is wanted, and one that is not.
struct PreferenceRow {
  std::string prompt, chosen, rejected;
};

/// Cut to `max_length` tokens at the right.
inline Example encode(const WordTokenizer& tokenizer, const std::string& prompt, const std::string& answer,
                      std::int64_t max_length) {
  auto tokens = tokenizer.chat(prompt);
  const auto answer_begin = tokens.size();
  for (const auto token : tokenizer.encode(answer)) tokens.push_back(token);
  tokens.push_back(tokenizer.end());
  Example example(std::move(tokens), answer_begin);
  example.truncate(max_length);
  return example;
}

namespace detail {

inline void check_rows_left(const Dataset& data, std::size_t rows, std::int64_t max_length) {
  if (!data.examples.empty()) return;
  if (rows == 0) throw ogpsa::InvalidArgument("there are no rows to train on; check the data");
  throw ogpsa::InvalidArgument("no answer of " + std::to_string(rows) + " rows fits in max_length = " +
                               std::to_string(max_length) + " tokens; raise max_length");
}

}  // namespace detail

/// Drops and counts the rows whose answer is cut away. \throws ogpsa::InvalidArgument when none is left
inline Dataset encode(const WordTokenizer& tokenizer, const std::vector<Row>& rows, std::int64_t max_length) {
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
inline Dataset encode(const WordTokenizer& tokenizer, const std::vector<PreferenceRow>& rows, std::int64_t max_length) {
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

}  // namespace align::study
