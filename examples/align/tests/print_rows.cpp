#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>
#include <string>

#include "dataset/reader.hpp"

/// \file
/// Prints the rows of a data file as JSON Lines, for check_dataset.py: print_rows USE FILE [FORMAT], where USE is
/// conversations, preferences, multiple_choice, questions or prompts. The last line is what was not read.

namespace align {
namespace {

using Json = nlohmann::json;

Json json(const std::vector<Message>& messages) {
  auto list = Json::array();
  for (const auto& message : messages) list.push_back({message.role, message.content});
  return list;
}
Json json(const Conversation& row) { return {{"messages", json(row.messages)}}; }
Json json(const Preference& row) {
  return {{"prompt", json(row.prompt)}, {"chosen", json(row.chosen)}, {"rejected", json(row.rejected)}};
}
Json json(const MultipleChoice& row) {
  return {{"question", row.question}, {"choices", row.choices}, {"answer", row.answer}};
}
Json json(const Question& row) { return {{"question", row.question}, {"answer", row.answer}}; }
Json json(const Prompt& row) { return {{"prompt", row.prompt}, {"category", row.category}}; }

template <class Row>
void print(const Rows<Row>& rows) {
  for (const auto& row : rows.rows) {
    auto object = json(row);
    object["number"] = row.source.number;
    std::puts(object.dump().c_str());
  }
  auto bad = Json::array();
  for (const auto& row : rows.bad) bad.push_back({row.source.number, row.reason});
  std::puts(Json{{"format", rows.format}, {"bad", bad}, {"dropped", rows.dropped}, {"account", account(rows)}}
                .dump()
                .c_str());
}

int run(const std::string& use, const std::string& file, const ReadOptions& options) {
  if (use == "conversations") {
    print(read_conversations(file, options));
  } else if (use == "preferences") {
    print(read_preferences(file, options));
  } else if (use == "multiple_choice") {
    print(read_multiple_choice(file, options));
  } else if (use == "questions") {
    print(read_questions(file, options));
  } else if (use == "prompts") {
    print(read_prompts(file, options));
  } else {
    std::fprintf(stderr, "there is no use '%s'\n", use.c_str());
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace align

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fputs("usage: print_rows USE FILE [FORMAT]\n", stderr);
    return 2;
  }
  try {
    return align::run(argv[1], argv[2], {.format = argc > 3 ? argv[3] : "auto"});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
