#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "dataset/rows.hpp"

/// \file
/// Reads data files: JSON (an array, or an object that holds one), JSON Lines and CSV, gzipped or not. The layout of
/// the rows is seen from their keys, and is one of these (? marks a key that may be missing):
///
/// Conversations
///   alpaca             instruction, input?, output, system?, history? as pairs; the input follows in a line of its own
///   dolly              instruction, context?, response
///   sharegpt           conversations of {from, value}, system?, tools?; calls of functions become text
///   messages           messages of {role, content}, as text or as a list of text parts, system?, tools?
///   prompt_completion  prompt and completion, as text or as turns, system?
///   question_answer    question, and the solution or else the answer, without the calculator marks of GSM8K
/// Preferences
///   alpaca_pair        as alpaca, with chosen and rejected
///   alpaca_ranked      as alpaca, the output a list: the first answer against the second
///   sharegpt_pair      as sharegpt, with chosen and rejected
///   messages_pair      chosen_messages, rejected_messages
///   openai_pair        input of {messages}, preferred_output, non_preferred_output
///   pair               prompt (or question), chosen and rejected, as text or as turns, system?
///   implicit_pair      chosen and rejected as turns, or as text of which the lines in common are the prompt
///   hh_rlhf            the same as text with "Human:" and "Assistant:"
///   response_pair      prompt, response as a list: the first against the second
///   pku_safer          prompt, response_0, response_1, safer_response_id
///   pku_better         the same by better_response_id; has to be named where the rows have both
///   ultrafeedback      instruction, completions with annotations: the best rated against the worst
/// Multiple choice
///   choices            question, choices, answer as a position from 0 or as a letter
///   arc                question {stem, choices of {text, label}} or question, choices {text, label}; answerKey
///   mmlu               question, A, B, ..., answer; a CSV may lack the header
///   llm_adapters       instruction with "Answer1: ... Answer2: ...", answer
///   truthfulqa         Question, Best Answer (which becomes the first choice), Incorrect Answers separated by ";"
/// Questions
///   gsm8k              question, answer with "#### number"
///   question_answer    question, answer
/// Prompts
///   prompts            prompt, category?
///   xstest             prompt, type; strongreject: forbidden_prompt, category?; advbench: goal, category?;
///   harmbench          Behavior, SemanticCategory?

namespace align {

enum class OnBadRow { skip, fail };

struct ReadOptions {
  std::string format = "auto";  ///< or one of format_names()
  OnBadRow on_bad_row = OnBadRow::skip;
  std::size_t limit = 0;  ///< stop after so many usable rows; 0 reads all
};

struct BadRow {
  Source source;
  std::string reason;
};

template <class Row>
struct Rows {
  std::vector<Row> rows;
  std::vector<BadRow> bad;                     ///< rows that are broken
  std::map<std::string, std::size_t> dropped;  ///< sound rows that are of no use here: how many for which reason
  std::string format;
  std::string file;
};

/// The readers. \throws ogpsa::FileError for a file that cannot be read or holds no usable row, and for the first bad
/// row with OnBadRow::fail; ogpsa::InvalidArgument for a format that is not one of format_names()
///
/// A file of preferences gives the conversations that end with the chosen answers; of rows with a `label` or `kto_tag`
/// (KTO) those are dropped whose answer is not wanted.
Rows<Conversation> read_conversations(const std::filesystem::path& path, const ReadOptions& options = {});
Rows<Preference> read_preferences(const std::filesystem::path& path, const ReadOptions& options = {});
Rows<MultipleChoice> read_multiple_choice(const std::filesystem::path& path, const ReadOptions& options = {});
Rows<Question> read_questions(const std::filesystem::path& path, const ReadOptions& options = {});
Rows<Prompt> read_prompts(const std::filesystem::path& path, const ReadOptions& options = {});

/// The layouts in which such rows can stand. Defined for the five kinds of row above.
template <class Row>
std::vector<std::string> format_names();

/// One line: "train.json: 1947 rows read as alpaca, 3 bad (first: row 17: no 'output')". Defined for the same five.
template <class Row>
std::string account(const Rows<Row>& rows);

}  // namespace align
