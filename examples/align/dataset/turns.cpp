#include "dataset/turns.hpp"

#include <algorithm>
#include <array>
#include <string_view>

#include "dataset/values.hpp"

namespace align::dataset {
namespace {

struct Role {
  std::string_view name, role;
  std::string_view mark = {};  ///< of tools
};

constexpr std::array kRoles = {Role{"system", "system"},
                               Role{"developer", "system"},
                               Role{"user", "user"},
                               Role{"human", "user"},
                               Role{"assistant", "assistant"},
                               Role{"gpt", "assistant"},
                               Role{"chatgpt", "assistant"},
                               Role{"model", "assistant"},
                               Role{"function_call", "assistant", "tool_call"},
                               Role{"observation", "user", "tool_response"},
                               Role{"tool", "user", "tool_response"},
                               Role{"function", "user", "tool_response"}};

const Role& role(const std::string& name) {
  for (const auto& known : kRoles) {
    if (known.name == name) return known;
  }
  throw BadValue("unknown role '" + excerpt(name) + "'");
}

std::string part_text(const Json& part) {
  if (part.is_string()) return as_text(part, "a part of a content");
  if (!part.is_object()) throw BadValue("a part of a content is neither text nor an object");
  if (has_text(part, "type") && part["type"] != "text") throw Dropped("content that is not text");
  return has(part, "text") ? text(part, "text") : text(part, "value");
}

std::string content_text(const Json& content, const char* key) {
  if (!content.is_array()) return as_text(content, quoted(key) + " of a turn");
  std::string result;
  for (const auto& part : content) result += part_text(part);
  return result;
}

Message message(const Json& turn) {
  if (!turn.is_object()) throw BadValue("a turn is not an object");
  for (const char* key : {"tool_calls", "function_call"}) {
    if (has(turn, key) && !turn[key].empty()) throw Dropped("tool calls that are not text");
  }
  const bool sharegpt = turn.contains("from");
  const auto& speaker = role(text(turn, sharegpt ? "from" : "role"));
  const char* key = sharegpt ? "value" : "content";
  auto content = content_text(value(turn, key), key);
  if (!speaker.mark.empty()) {
    const std::string mark(speaker.mark);
    content = "<" + mark + ">\n" + content + "\n</" + mark + ">";
  }
  return {std::string(speaker.role), std::move(content)};
}

/// The descriptions of the functions, or nothing.
std::string tools_text(const Json& row) {
  if (!has(row, "tools")) return {};
  const auto& tools = row["tools"];
  if (tools.is_structured()) {
    if (!tools.empty()) throw Dropped("tools that are not text");
    return {};
  }
  const auto& description = text(row, "tools");
  if (is_blank(description) || trimmed(description) == "[]") return {};
  return "You can call these functions. Write a call as JSON between <tool_call> and </tool_call>.\n<tools>\n" +
         description + "\n</tools>";
}

/// One past the mark of a speaker in the middle of a line, such as "  Human: ", if there is exactly one; else npos.
std::size_t mark_in_line(const std::string& text, const std::string& mark, std::size_t& begin) {
  std::size_t end = text.npos;
  for (auto at = text.find(mark); at != text.npos; at = text.find(mark, at + 1)) {
    if (at == 0 || !is_blank(text.substr(at - 1, 1))) continue;
    if (end != text.npos) return text.npos;
    begin = at;
    end = at + mark.size();
  }
  return end;
}

constexpr const char* kUserMark = "Human:";
constexpr const char* kAssistantMark = "Assistant:";

void split_merged_turns(Dialogue& dialogue) {
  for (std::size_t i = 0; i + 1 < dialogue.size(); ++i) {
    if (dialogue[i].role != dialogue[i + 1].role) continue;
    const bool assistant = dialogue[i].role == "assistant";
    std::size_t begin = 0;
    const auto text = dialogue[i].content;
    const auto end = mark_in_line(text, assistant ? kUserMark : kAssistantMark, begin);
    if (end == text.npos) continue;
    dialogue[i].content = trimmed(std::string_view(text).substr(0, begin));
    dialogue.insert(dialogue.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                    {assistant ? "user" : "assistant", std::string(trimmed(std::string_view(text).substr(end)))});
  }
}

bool same(const Message& a, const Message& b) { return a.role == b.role && a.content == b.content; }

std::string ordinal(std::size_t index, const Message& message) {
  return "turn " + std::to_string(index + 1) + " (" + message.role + ")";
}

}  // namespace

Dialogue turns(const Json& list_of_turns) {
  if (!list_of_turns.is_array()) throw BadValue("the turns are not a list");
  Dialogue dialogue;
  for (const auto& turn : list_of_turns) dialogue.push_back(message(turn));
  return dialogue;
}

Dialogue answer_turns(const Json& answer) {
  if (answer.is_array()) return turns(answer);
  if (answer.is_object()) return {message(answer)};
  return {{"assistant", as_text(answer, "the answer")}};
}

void add_columns(const Json& row, Dialogue& dialogue) {
  const auto system = optional_text(row, "system");
  const auto tools = tools_text(row);
  const bool has_system = !dialogue.empty() && dialogue.front().role == "system";
  // A system turn is nearer to the dialogue than the column.
  if (!has_system && !(is_blank(system) && tools.empty())) dialogue.insert(dialogue.begin(), {"system", system});
  if (tools.empty()) return;
  auto& content = dialogue.front().content;
  content = is_blank(content) ? tools : content + "\n\n" + tools;
}

bool is_hh_dialogue(const std::string& text) {
  return trimmed(text).starts_with(kUserMark) && text.find("\n\nAssistant:") != text.npos;
}

Dialogue hh_dialogue(const std::string& text) {
  const std::string user = std::string("\n\n") + kUserMark, assistant = std::string("\n\n") + kAssistantMark;
  const auto all = "\n\n" + std::string(trimmed(text));
  Dialogue dialogue;
  for (std::size_t begin = 0; begin < all.size();) {
    const bool is_user = all.compare(begin, user.size(), user) == 0;
    if (!is_user && all.compare(begin, assistant.size(), assistant) != 0) {
      throw BadValue("the dialogue does not begin with 'Human:'");
    }
    const auto content = begin + (is_user ? user : assistant).size();
    const auto end = std::min({all.find(user, content), all.find(assistant, content), all.size()});
    dialogue.push_back(
        {is_user ? "user" : "assistant", std::string(trimmed(std::string_view(all).substr(content, end - content)))});
    begin = end;
  }
  split_merged_turns(dialogue);
  return dialogue;
}

void check_dialogue(const Dialogue& dialogue) {
  const std::size_t begin = !dialogue.empty() && dialogue.front().role == "system" ? 1 : 0;
  if (dialogue.size() == begin) throw BadValue("there are no turns");
  for (auto i = begin; i < dialogue.size(); ++i) {
    const char* due = (i - begin) % 2 == 0 ? "user" : "assistant";
    if (dialogue[i].role != due) throw BadValue(ordinal(i, dialogue[i]) + " stands where the " + due + " is due");
    if (is_blank(dialogue[i].content)) throw BadValue(ordinal(i, dialogue[i]) + " is empty");
  }
  if (dialogue.back().role != "assistant") throw BadValue("the last turn is not of the assistant");
}

Preference split(const Dialogue& chosen, const Dialogue& rejected) {
  std::size_t common = 0;
  while (common < std::min(chosen.size(), rejected.size()) && same(chosen[common], rejected[common])) ++common;
  if (common == chosen.size() && common == rejected.size()) throw Dropped("chosen and rejected are the same");
  while (common > 0 && chosen[common - 1].role != "user") --common;
  if (common == 0) throw BadValue("chosen and rejected have no prompt in common");
  const auto cut = static_cast<std::ptrdiff_t>(common);
  Preference row;
  row.prompt.assign(chosen.begin(), chosen.begin() + cut);
  row.chosen.assign(chosen.begin() + cut, chosen.end());
  row.rejected.assign(rejected.begin() + cut, rejected.end());
  return row;
}

}  // namespace align::dataset
