#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "dataset/layouts.hpp"
#include "dataset/turns.hpp"
#include "dataset/values.hpp"

/// \file
/// The layouts of conversations and preferences. For each there is a function that gives a dialogue as it goes on with
/// the answer that is wanted, and for preferences one for the answer that is not; what both share is the prompt.

namespace align::dataset {
namespace {

Dialogue joined(Dialogue prompt, Dialogue answer) {
  for (auto& turn : answer) prompt.push_back(std::move(turn));
  return prompt;
}

// Alpaca: instruction, input, and history as pairs of texts.

std::string with_input(const std::string& instruction, const std::string& input) {
  if (is_blank(input)) return instruction;
  return is_blank(instruction) ? input : instruction + "\n" + input;
}

Dialogue alpaca_prompt(const Json& row) {
  Dialogue dialogue;
  if (has(row, "history")) {
    for (const auto& pair : list(row, "history")) {
      if (!pair.is_array() || pair.size() != 2) throw BadValue("'history' is not a list of pairs");
      dialogue.push_back({"user", as_text(pair[0], "'history'")});
      dialogue.push_back({"assistant", as_text(pair[1], "'history'")});
    }
  }
  dialogue.push_back({"user", with_input(text(row, "instruction"), optional_text(row, "input"))});
  add_columns(row, dialogue);
  return dialogue;
}

Dialogue alpaca(const Json& row) {
  auto dialogue = alpaca_prompt(row);
  dialogue.push_back({"assistant", text(row, "output")});
  return dialogue;
}

/// Answer `index` of a list that begins with the better one.
Message ranked_answer(const Json& row, const char* key, std::size_t index) {
  const auto& answers = list(row, key);
  if (answers.size() <= index) throw BadValue(quoted(key) + " holds no answer " + std::to_string(index + 1));
  return {"assistant", as_text(answers[index], quoted(key))};
}

template <std::size_t index>
Dialogue alpaca_ranked(const Json& row) {
  return joined(alpaca_prompt(row), {ranked_answer(row, "output", index)});
}

Dialogue dolly(const Json& row) {
  return {{"user", with_input(text(row, "instruction"), optional_text(row, "context"))},
          {"assistant", text(row, "response")}};
}

Dialogue listed_turns(const Json& row, const char* key) {
  auto dialogue = turns(list(row, key));
  add_columns(row, dialogue);
  return dialogue;
}

Dialogue openai_prompt(const Json& row) {
  if (!has_object(row, "input")) throw BadValue("'input' is not an object");
  return listed_turns(row["input"], "messages");
}

// prompt and an answer, each as text or as turns.

const char* prompt_key(const Json& row) { return has(row, "prompt") || !has(row, "question") ? "prompt" : "question"; }

Dialogue prompt_turns(const Json& row) {
  const auto& prompt = value(row, prompt_key(row));
  Dialogue dialogue;
  if (prompt.is_string() && is_hh_dialogue(prompt.get_ref<const std::string&>())) {
    dialogue = hh_dialogue(as_text(prompt, "'prompt'"));
    // It ends with a bare "Assistant:".
    if (is_blank(dialogue.back().content)) dialogue.pop_back();
  } else if (prompt.is_array()) {
    dialogue = turns(prompt);
  } else {
    dialogue.push_back({"user", as_text(prompt, quoted(prompt_key(row)))});
  }
  add_columns(row, dialogue);
  return dialogue;
}

Dialogue prompt_and_answer(const Json& row, const char* key) {
  auto answer = answer_turns(value(row, key));
  // In UltraFeedback binarized the turns hold the prompt as well.
  if (!answer.empty() && answer.front().role != "assistant") return answer;
  return joined(prompt_turns(row), std::move(answer));
}

// chosen and rejected without a prompt.

/// Where the answers begin that two texts end with: after the last line end that they share, or else the last space.
std::size_t end_of_common_prompt(const std::string& a, const std::string& b) {
  std::size_t common = 0;
  while (common < std::min(a.size(), b.size()) && a[common] == b[common]) ++common;
  for (const char* separator : {"\n", " "}) {
    // A separator at the very beginning leaves no prompt.
    const auto at = std::string_view(a).substr(0, common).rfind(separator);
    if (at != std::string_view::npos && !is_blank(a.substr(0, at))) return at + 1;
  }
  throw BadValue("chosen and rejected have no prompt in common");
}

Dialogue implicit(const Json& row, const char* key, const char* other_key) {
  if (!value(row, key).is_string()) return listed_turns(row, key);
  const auto& all = text(row, key);
  const auto& other = text(row, other_key);
  if (all == other) throw Dropped("chosen and rejected are the same");
  const auto cut = end_of_common_prompt(all, other);
  const auto prompt = std::string_view(all).substr(0, cut), answer = std::string_view(all).substr(cut);
  // What separates the two is white space that belongs to neither.
  return {{"user", std::string(trimmed(prompt))}, {"assistant", std::string(trimmed(answer))}};
}

// PKU-SafeRLHF: two answers, and which of them is the better or safer one.

std::int64_t pku_index(const Json& row, const char* key, bool wanted) {
  const auto& id = value(row, key);
  if (id != 0 && id != 1) throw BadValue(quoted(key) + " is neither 0 nor 1");
  return wanted == (id == 1) ? 1 : 0;
}

Dialogue pku(const Json& row, const char* key, bool wanted) {
  const auto answer = "response_" + std::to_string(pku_index(row, key, wanted));
  return {{"user", text(row, "prompt")}, {"assistant", text(row, answer.c_str())}};
}

// UltraFeedback of openbmb: several answers with ratings.

/// The mean of the ratings, which are numbers as text, or "N/A".
std::optional<double> rating(const Json& completion) {
  double sum = 0;
  int count = 0;
  if (has_object(completion, "annotations")) {
    for (const auto& annotation : completion["annotations"]) {
      if (!annotation.is_object() || !has_text(annotation, "Rating")) continue;
      const auto& text = annotation["Rating"].get_ref<const std::string&>();
      if (text.size() != 1 || text[0] < '0' || text[0] > '9') continue;
      sum += text[0] - '0';
      ++count;
    }
  }
  if (count > 0) return sum / count;
  return has(completion, "overall_score") && completion["overall_score"].is_number()
             ? std::optional(completion["overall_score"].get<double>())
             : std::nullopt;
}

/// The best and the worst rated answer, the first of equals.
struct Rated {
  const Json* best = nullptr;
  const Json* worst = nullptr;
};

Rated rated(const Json& row) {
  Rated found;
  double best = 0, worst = 0;
  for (const auto& completion : list(row, "completions")) {
    if (!completion.is_object()) throw BadValue("'completions' is not a list of objects");
    const auto value = rating(completion);
    if (!value) continue;
    if (found.best == nullptr || *value > best) {
      found.best = &completion;
      best = *value;
    }
    if (found.worst == nullptr || *value < worst) {
      found.worst = &completion;
      worst = *value;
    }
  }
  if (found.best == nullptr) throw BadValue("none of the 'completions' is rated");
  return found;
}

Dialogue best_rated(const Json& row) {
  return {{"user", text(row, "instruction")}, {"assistant", text(*rated(row).best, "response")}};
}

Dialogue worst_rated(const Json& row) {
  const auto [best, worst] = rated(row);
  if (best == worst) throw Dropped("no two answers that are rated differently");
  return {{"user", text(row, "instruction")}, {"assistant", text(*worst, "response")}};
}

// GSM8K.

std::string without_calculator(const std::string& solution) {
  std::string result;
  for (std::size_t at = 0; at < solution.size();) {
    const auto begin = solution.find("<<", at);
    const auto end = begin == solution.npos ? begin : solution.find(">>", begin);
    result += solution.substr(at, end == solution.npos ? end : begin - at);
    at = end == solution.npos ? end : end + 2;
  }
  return result;
}

Dialogue question_and_answer(const Json& row) {
  const bool has_solution = has(row, "solution");
  return {{"user", text(row, "question")},
          {"assistant", has_solution ? text(row, "solution") : without_calculator(text(row, "answer"))}};
}

struct DialogueLayout {
  const char* name;
  bool (*fits)(const Json&);
  Dialogue (*chosen)(const Json&);
  Dialogue (*rejected)(const Json&) = nullptr;
};

bool is_pair(const Json& row) { return has(row, "chosen") && has(row, "rejected"); }

bool is_hh_pair(const Json& row) {
  return has_text(row, "chosen") && has_text(row, "rejected") &&
         is_hh_dialogue(row["chosen"].get_ref<const std::string&>());
}

// The first that fits is taken, so the special ones stand before the general ones.
constexpr DialogueLayout kLayouts[] = {
    {"alpaca_pair", [](const Json& row) { return is_pair(row) && has(row, "instruction"); },
     [](const Json& row) { return joined(alpaca_prompt(row), answer_turns(value(row, "chosen"))); },
     [](const Json& row) { return joined(alpaca_prompt(row), answer_turns(value(row, "rejected"))); }},
    {"sharegpt_pair", [](const Json& row) { return is_pair(row) && has(row, "conversations"); },
     [](const Json& row) { return joined(listed_turns(row, "conversations"), answer_turns(value(row, "chosen"))); },
     [](const Json& row) { return joined(listed_turns(row, "conversations"), answer_turns(value(row, "rejected"))); }},
    {"pair", [](const Json& row) { return is_pair(row) && (has(row, "prompt") || has(row, "question")); },
     [](const Json& row) { return prompt_and_answer(row, "chosen"); },
     [](const Json& row) { return prompt_and_answer(row, "rejected"); }},
    {"hh_rlhf", is_hh_pair, [](const Json& row) { return hh_dialogue(text(row, "chosen")); },
     [](const Json& row) { return hh_dialogue(text(row, "rejected")); }},
    {"implicit_pair", is_pair, [](const Json& row) { return implicit(row, "chosen", "rejected"); },
     [](const Json& row) { return implicit(row, "rejected", "chosen"); }},
    {"messages_pair", [](const Json& row) { return has(row, "chosen_messages") && has(row, "rejected_messages"); },
     [](const Json& row) { return listed_turns(row, "chosen_messages"); },
     [](const Json& row) { return listed_turns(row, "rejected_messages"); }},
    {"openai_pair", [](const Json& row) { return has(row, "preferred_output") && has(row, "non_preferred_output"); },
     [](const Json& row) { return joined(openai_prompt(row), answer_turns(value(row, "preferred_output"))); },
     [](const Json& row) { return joined(openai_prompt(row), answer_turns(value(row, "non_preferred_output"))); }},
    {"pku_safer", [](const Json& row) { return has(row, "response_0") && has(row, "safer_response_id"); },
     [](const Json& row) { return pku(row, "safer_response_id", true); },
     [](const Json& row) { return pku(row, "safer_response_id", false); }},
    {"pku_better", [](const Json& row) { return has(row, "response_0") && has(row, "better_response_id"); },
     [](const Json& row) { return pku(row, "better_response_id", true); },
     [](const Json& row) { return pku(row, "better_response_id", false); }},
    {"response_pair", [](const Json& row) { return has(row, "prompt") && has_list(row, "response"); },
     [](const Json& row) { return joined(prompt_turns(row), {ranked_answer(row, "response", 0)}); },
     [](const Json& row) { return joined(prompt_turns(row), {ranked_answer(row, "response", 1)}); }},
    {"alpaca_ranked", [](const Json& row) { return has(row, "instruction") && has_list(row, "output"); },
     alpaca_ranked<0>, alpaca_ranked<1>},
    {"ultrafeedback", [](const Json& row) { return has(row, "instruction") && has_list(row, "completions"); },
     best_rated, worst_rated},
    {"alpaca", [](const Json& row) { return has(row, "instruction") && has(row, "output"); }, alpaca},
    {"dolly", [](const Json& row) { return has(row, "instruction") && has(row, "response"); }, dolly},
    {"sharegpt", [](const Json& row) { return has(row, "conversations"); },
     [](const Json& row) { return listed_turns(row, "conversations"); }},
    {"messages", [](const Json& row) { return has_list(row, "messages"); },
     [](const Json& row) { return listed_turns(row, "messages"); }},
    {"prompt_completion", [](const Json& row) { return has(row, "prompt") && has(row, "completion"); },
     [](const Json& row) { return prompt_and_answer(row, "completion"); }},
    {"question_answer", is_question, question_and_answer},
};

/// KTO marks single answers as wanted or not. PKU-SafeRLHF has pairs of which even the safer answer is not safe.
void drop_unwanted(const DialogueLayout& layout, const Json& row) {
  for (const char* key : {"label", "kto_tag"}) {
    if (has(row, key) && row[key] == false) throw Dropped(quoted(key) + " says that the answer is not wanted");
  }
  if (std::string_view(layout.name) != "pku_safer") return;
  const auto key = "is_response_" + std::to_string(pku_index(row, "safer_response_id", true)) + "_safe";
  if (has(row, key.c_str()) && row[key] == false) throw Dropped("the safer answer is not safe");
}

Conversation read_conversation(const DialogueLayout& layout, const Json& row) {
  drop_unwanted(layout, row);
  auto dialogue = layout.chosen(row);
  check_dialogue(dialogue);
  return {std::move(dialogue), {}};
}

void check_answer(const char* name, const Dialogue& dialogue) {
  try {
    check_dialogue(dialogue);
  } catch (const BadValue& error) {
    throw BadValue(std::string(name) + ": " + error.what());
  }
}

Preference read_preference(const DialogueLayout& layout, const Json& row) {
  const auto chosen = layout.chosen(row), rejected = layout.rejected(row);
  check_answer("chosen", chosen);
  check_answer("rejected", rejected);
  return split(chosen, rejected);
}

}  // namespace

template <>
const std::vector<Layout<Conversation>>& layouts() {
  static const auto result = [] {
    std::vector<Layout<Conversation>> list;
    for (const auto& layout : kLayouts) {
      list.push_back({layout.name, layout.fits, [&](const Json& row) { return read_conversation(layout, row); }});
    }
    return list;
  }();
  return result;
}

template <>
const std::vector<Layout<Preference>>& layouts() {
  static const auto result = [] {
    std::vector<Layout<Preference>> list;
    for (const auto& layout : kLayouts) {
      if (layout.rejected == nullptr) continue;
      list.push_back({layout.name, layout.fits, [&](const Json& row) { return read_preference(layout, row); }});
    }
    return list;
  }();
  return result;
}

}  // namespace align::dataset
