#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "text/message.hpp"

/// \file
/// What a data file holds. Roles are system, user and assistant; a system message is the first of its list.

namespace align {

/// Where a row stands in its file, so that later errors can name it.
struct Source {
  std::string file;
  std::size_t number = 0;  ///< from 1
  bool is_line = true;     ///< else it counts the rows of a JSON array

  /// "train.jsonl, line 17"
  std::string text() const { return file + (is_line ? ", line " : ", row ") + std::to_string(number); }
};

/// For SFT. User and assistant take turns; the user begins, the assistant ends.
struct Conversation {
  std::vector<Message> messages;
  Source source;
};

/// For DPO. The prompt ends with a user turn. Both answers begin and end with an assistant turn; mostly that is one
/// turn, but where the two dialogues part early there are user turns in between.
struct Preference {
  std::vector<Message> prompt, chosen, rejected;
  Source source;
};

struct MultipleChoice {
  std::string question;
  std::vector<std::string> choices;
  std::size_t answer = 0;  ///< position in choices
  Source source;
};

/// A question with a short answer, such as the number of a GSM8K problem.
struct Question {
  std::string question, answer;
  Source source;
};

/// A request without an answer, to count refusals.
struct Prompt {
  std::string prompt, category;
  Source source;
};

}  // namespace align
