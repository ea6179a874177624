#pragma once

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

inline Example encode(const WordTokenizer& tokenizer, const std::string& prompt, const std::string& answer) {
  auto tokens = tokenizer.chat(prompt);
  const auto answer_begin = tokens.size();
  for (const auto token : tokenizer.encode(answer)) tokens.push_back(token);
  tokens.push_back(tokenizer.end());
  return Example(std::move(tokens), answer_begin);
}
inline std::vector<Example> encode(const WordTokenizer& tokenizer, const Row& row) {
  return {encode(tokenizer, row.prompt, row.answer)};
}
inline std::vector<Example> encode(const WordTokenizer& tokenizer, const PreferenceRow& row) {
  return {encode(tokenizer, row.prompt, row.chosen), encode(tokenizer, row.prompt, row.rejected)};
}

/// \tparam AnyRow  Row or PreferenceRow
/// \throws ogpsa::InvalidArgument when no answer is left
template <class AnyRow>
Dataset encode(const WordTokenizer& tokenizer, const std::vector<AnyRow>& rows, std::int64_t max_length) {
  Dataset data;
  for (const auto& row : rows) data.add(encode(tokenizer, row), max_length);
  if (!data.examples.empty()) return data;
  if (rows.empty()) throw ogpsa::InvalidArgument("there are no rows to train on; check the data");
  throw ogpsa::InvalidArgument("no answer of " + std::to_string(rows.size()) + " rows fits in max_length = " +
                               std::to_string(max_length) + " tokens; raise max_length");
}

}  // namespace align::study
