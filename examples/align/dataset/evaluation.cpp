#include <algorithm>
#include <nlohmann/json.hpp>

#include "dataset/layouts.hpp"
#include "dataset/values.hpp"

/// \file
/// The layouts of multiple choice, of questions with a short answer, and of bare prompts.

namespace align::dataset {
namespace {

// Multiple choice.

MultipleChoice checked(MultipleChoice row) {
  if (is_blank(row.question)) throw BadValue("the question is empty");
  if (row.choices.size() < 2) throw BadValue("there are fewer than two choices");
  for (const auto& choice : row.choices) {
    if (is_blank(choice)) throw BadValue("a choice is empty");
  }
  if (row.answer >= row.choices.size()) throw BadValue("the answer is none of the choices");
  return row;
}

/// "A" is 0.
std::size_t letter_index(const std::string& answer) {
  const auto letter = trimmed(answer);
  if (letter.size() != 1 || letter[0] < 'A' || letter[0] > 'Z') throw BadValue("the answer is not a capital letter");
  return static_cast<std::size_t>(letter[0] - 'A');
}

MultipleChoice choices(const Json& row) {
  MultipleChoice result{text(row, "question"), {}, 0, {}};
  for (const auto& choice : list(row, "choices")) result.choices.push_back(as_text(choice, "a choice"));
  const auto& answer = value(row, "answer");
  if (answer.is_number_unsigned()) {
    result.answer = answer.get<std::size_t>();
  } else if (answer.is_string()) {
    result.answer = letter_index(text(row, "answer"));
  } else {
    throw BadValue("'answer' is neither a position, counted from 0, nor a letter");
  }
  return checked(std::move(result));
}

/// question, A, B, ..., answer: the CSV of MMLU.
MultipleChoice mmlu(const Json& row) {
  MultipleChoice result{text(row, "question"), {}, letter_index(text(row, "answer")), {}};
  for (char letter = 'A'; letter <= 'Z'; ++letter) {
    const char key[] = {letter, '\0'};
    if (!has(row, key)) break;
    result.choices.push_back(text(row, key));
  }
  return checked(std::move(result));
}

/// ARC and OpenBookQA: {stem, choices: [{text, label}]} as first published, choices: {text: [], label: []} as tables.
MultipleChoice arc(const Json& row) {
  const bool published = has_object(row, "question");
  const auto& question = published ? row["question"] : row;
  MultipleChoice result;
  result.question = text(question, published ? "stem" : has(row, "question") ? "question" : "question_stem");
  std::vector<std::string> labels;
  if (has_object(question, "choices")) {
    for (const auto& choice : list(question["choices"], "text")) result.choices.push_back(as_text(choice, "a choice"));
    for (const auto& label : list(question["choices"], "label")) labels.push_back(as_text(label, "a label"));
  } else {
    for (const auto& choice : list(question, "choices")) {
      result.choices.push_back(text(choice, "text"));
      labels.push_back(text(choice, "label"));
    }
  }
  if (labels.size() != result.choices.size()) throw BadValue("there are not as many labels as choices");
  // Some questions are labelled 1, 2, 3, 4. A key that is no label gives the position past the end.
  result.answer =
      static_cast<std::size_t>(std::find(labels.begin(), labels.end(), text(row, "answerKey")) - labels.begin());
  return checked(std::move(result));
}

/// LLM-Adapters: "Please choose ...: question\n\nAnswer1: ... Answer2: ...\n\nAnswer format: ...", answer "answer1".
MultipleChoice llm_adapters(const Json& row) {
  const auto& instruction = text(row, "instruction");
  const auto& answer = text(row, "answer");
  auto word = answer.substr(0, answer.find_first_of("0123456789"));
  if (word.empty() || word.size() + 1 != answer.size()) throw BadValue("'answer' is not of the form answer1");
  if (word[0] >= 'a' && word[0] <= 'z') word[0] = static_cast<char>(word[0] - 'a' + 'A');
  const auto mark = [&](std::size_t number) { return word + std::to_string(number) + ": "; };
  auto begin = instruction.find("\n\n" + mark(1));
  const auto end = instruction.rfind("\n\nAnswer format:");
  const auto question = instruction.find(": ");
  if (begin == instruction.npos || end == instruction.npos || end < begin || question >= begin) {
    throw BadValue("'instruction' is not a question with choices after '" + mark(1) + "'");
  }
  MultipleChoice result;
  result.question = trimmed(std::string_view(instruction).substr(question + 2, begin - question - 2));
  for (std::size_t number = 1; begin < end; ++number) {
    begin = instruction.find(mark(number), begin) + mark(number).size();
    const auto next = std::min(end, instruction.find(mark(number + 1), begin));
    result.choices.emplace_back(trimmed(std::string_view(instruction).substr(begin, next - begin)));
    begin = next;
  }
  result.answer = static_cast<std::size_t>(answer.back() - '1');  // "answer0" lies past the end
  return checked(std::move(result));
}

/// The best answer stands first, so only scores that do not depend on the order are fair.
MultipleChoice truthfulqa(const Json& row) {
  MultipleChoice result{text(row, "Question"), {text(row, "Best Answer")}, 0, {}};
  std::string_view rest = text(row, "Incorrect Answers");
  while (!rest.empty()) {
    const auto end = rest.find(';');
    if (const auto choice = trimmed(rest.substr(0, end)); !choice.empty()) result.choices.emplace_back(choice);
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  }
  return checked(std::move(result));
}

bool is_arc(const Json& row) { return has(row, "answerKey") && (has(row, "choices") || has_object(row, "question")); }

// Questions.

constexpr const char* kAnswerMark = "####";

/// The number after the mark, without the commas between thousands.
Question gsm8k(const Json& row) {
  const auto& solution = text(row, "answer");
  const auto mark = solution.rfind(kAnswerMark);
  if (mark == solution.npos) throw BadValue("'answer' has no '####' before its result");
  std::string answer(trimmed(std::string_view(solution).substr(mark + std::string_view(kAnswerMark).size())));
  answer.erase(std::remove(answer.begin(), answer.end(), ','), answer.end());
  if (answer.empty()) throw BadValue("nothing follows '####' in 'answer'");
  return {filled_text(row, "question"), answer, {}};
}

Question question(const Json& row) { return {filled_text(row, "question"), filled_text(row, "answer"), {}}; }

// Prompts.

struct PromptLayout {
  const char *name, *prompt, *category;
  const char* other = nullptr;  ///< a key that tells it from others
};

constexpr PromptLayout kPrompts[] = {
    {"xstest", "prompt", "type", "type"},
    {"strongreject", "forbidden_prompt", "category"},
    {"harmbench", "Behavior", "SemanticCategory"},
    {"advbench", "goal", "category"},
    {"prompts", "prompt", "category"},
};

}  // namespace

template <>
const std::vector<Layout<MultipleChoice>>& layouts() {
  static const std::vector<Layout<MultipleChoice>> result = {
      {"arc", is_arc, arc},
      {"choices",
       [](const Json& row) { return has(row, "question") && has_list(row, "choices") && has(row, "answer"); }, choices},
      {"mmlu",
       [](const Json& row) { return has(row, "question") && has(row, "A") && has(row, "B") && has(row, "answer"); },
       mmlu},
      {"llm_adapters", [](const Json& row) { return has(row, "instruction") && has_text(row, "answer"); },
       llm_adapters},
      {"truthfulqa",
       [](const Json& row) { return has(row, "Question") && has(row, "Best Answer") && has(row, "Incorrect Answers"); },
       truthfulqa},
  };
  return result;
}

template <>
const std::vector<Layout<Question>>& layouts() {
  static const std::vector<Layout<Question>> result = {
      {"gsm8k",
       [](const Json& row) {
         return is_question(row) && row["answer"].get_ref<const std::string&>().find(kAnswerMark) != std::string::npos;
       },
       gsm8k},
      {"question_answer", is_question, question},
  };
  return result;
}

template <>
const std::vector<Layout<Prompt>>& layouts() {
  static const auto result = [] {
    std::vector<Layout<Prompt>> list;
    for (const auto& layout : kPrompts) {
      list.push_back({layout.name,
                      [&](const Json& row) {
                        return has(row, layout.prompt) && (layout.other == nullptr || has(row, layout.other));
                      },
                      [&](const Json& row) {
                        return Prompt{filled_text(row, layout.prompt), optional_text(row, layout.category), {}};
                      }});
    }
    return list;
  }();
  return result;
}

}  // namespace align::dataset
