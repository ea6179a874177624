#pragma once

#include <string>
#include <vector>

#include "dataset/records.hpp"
#include "dataset/rows.hpp"

/// \file
/// Dialogues as lists of messages. All of it throws BadValue and Dropped.

namespace align::dataset {

using Dialogue = std::vector<Message>;

/// Turns as {role, content} or {from, value}; a content is text or a list of text parts. Calls of functions and what
/// they return become turns of the assistant and the user, marked with <tool_call> and <tool_response>.
Dialogue turns(const Json& list_of_turns);
/// The same for an answer, which may also be a single turn or just its text.
Dialogue answer_turns(const Json& answer);

/// Puts the columns `system` and `tools` of a row before its dialogue, where it has them.
void add_columns(const Json& row, Dialogue& dialogue);

/// "\n\nHuman: ...\n\nAssistant: ...", the text of HH-RLHF. Where two turns of one speaker follow each other since a
/// mark stands in the middle of a line, the first is split there.
Dialogue hh_dialogue(const std::string& text);
/// Whether a text looks like that.
bool is_hh_dialogue(const std::string& text);

/// A system message at most, then user and assistant in turn, with the assistant last, and all of it not empty.
void check_dialogue(const Dialogue& dialogue);

/// Cuts two dialogues where they part: the prompt ends with the last user turn that both have.
Preference split(const Dialogue& chosen, const Dialogue& rejected);

}  // namespace align::dataset
