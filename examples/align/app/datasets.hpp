#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "app/options.hpp"
#include "dataset/reader.hpp"
#include "text/chat.hpp"
#include "train/example.hpp"

namespace align {

/// Reads files and writes them as tokens. What was used, cut and dropped of each file is told to `log`.
class DatasetLoader {
 public:
  /// \throws ogpsa::FileError, ogpsa::InvalidArgument
  DatasetLoader(const std::filesystem::path& model, const TextOptions& options,
                std::function<void(const std::string&)> log);

  /// \param rows  how many of the file, drawn by `seed`; 0: all
  /// \throws ogpsa::InvalidArgument when nothing is left to train on
  std::vector<Example> conversations(const std::filesystem::path& file, std::int64_t rows, std::uint64_t seed) const;
  /// Chosen and rejected answers in turn. The loss is on the last answers alone, not on those in the prompt.
  std::vector<Example> preferences(const std::filesystem::path& file, std::int64_t rows, std::uint64_t seed) const;
  std::vector<MultipleChoice> multiple_choice(const std::filesystem::path& file, std::int64_t rows) const;
  std::vector<Question> questions(const std::filesystem::path& file, std::int64_t rows) const;
  std::vector<Prompt> prompts(const std::filesystem::path& file, std::int64_t rows) const;

  /// A user's turn, ready for the answer.
  Tokens prompt(const std::string& user) const;
  /// A user's turn and its answer.
  Example exchange(const std::string& user, const std::string& assistant) const;

  const Tokenizer& tokenizer() const { return *tokenizer_; }
  std::int64_t end_of_turn() const { return chat_.end_of_turn(); }
  /// Any token does: padding is masked by position.
  std::int64_t padding() const { return chat_.end_of_turn(); }

 private:
  ReadOptions read_options() const;
  /// Tells what was read, and draws from it.
  template <class Row>
  std::vector<Row> take(Rows<Row> read, std::int64_t rows, std::uint64_t seed) const;
  /// Answers among the first `prompt_messages` are prompt.
  Example encode(const std::vector<Message>& messages, std::size_t prompt_messages) const;
  /// Tells how many `rows` (what they are called) of a file are used. \throws ogpsa::InvalidArgument when none is
  std::vector<Example> used(Dataset data, const char* rows, const std::filesystem::path& file) const;

  TextOptions options_;
  std::function<void(const std::string&)> log_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  ChatTemplate chat_;
};

}  // namespace align
