#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <unistd.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <ogpsa/error.hpp>
#include <random>

#include "dataset/reader.hpp"

using namespace align;

namespace {

/// A folder that goes away with this.
class Folder {
 public:
  Folder() : path_(std::filesystem::temp_directory_path() / ("ogpsa_dataset_" + std::to_string(getpid()))) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }
  std::filesystem::path write_gzip(const std::string& name, const std::string& text) const {
    auto* file = gzopen((path_ / name).c_str(), "wb");
    gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
    gzclose(file);
    return path_ / name;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

const Folder& folder() {
  static const Folder result;
  return result;
}

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Rows as one line of text, to state what is expected.

std::string text(const std::vector<Message>& messages) {
  std::string result;
  for (const auto& message : messages) {
    result += (result.empty() ? "" : " ") + message.role.substr(0, 1) + "(" + message.content + ")";
  }
  return result;
}
std::string text(const Conversation& row) { return text(row.messages); }
std::string text(const Preference& row) {
  return text(row.prompt) + " > " + text(row.chosen) + " > " + text(row.rejected);
}
std::string text(const MultipleChoice& row) {
  auto result = row.question + ":";
  for (const auto& choice : row.choices) result += " (" + choice + ")";
  return result + " " + std::to_string(row.answer);
}
std::string text(const Question& row) { return row.question + " = " + row.answer; }
std::string text(const Prompt& row) { return row.prompt + " / " + row.category; }

template <class Row>
auto reader();
template <>
auto reader<Conversation>() {
  return read_conversations;
}
template <>
auto reader<Preference>() {
  return read_preferences;
}
template <>
auto reader<MultipleChoice>() {
  return read_multiple_choice;
}
template <>
auto reader<Question>() {
  return read_questions;
}
template <>
auto reader<Prompt>() {
  return read_prompts;
}

/// Reads a file of these contents.
template <class Row>
Rows<Row> read(const std::string& content, const ReadOptions& options = {}, const std::string& name = "data.jsonl") {
  return reader<Row>()(folder().write(name, content), options);
}

/// The format, and each row, or why it gives none.
template <class Row>
std::string summary(const std::string& content, const std::string& name = "data.jsonl") {
  try {
    const auto rows = read<Row>(content, {}, name);
    auto result = rows.format;
    for (const auto& row : rows.rows) result += " | " + text(row);
    for (const auto& bad : rows.bad) result += " | bad " + std::to_string(bad.source.number) + ": " + bad.reason;
    for (const auto& [reason, count] : rows.dropped) result += " | dropped " + std::to_string(count) + ": " + reason;
    return result;
  } catch (const ogpsa::FileError&) {
    return "none";
  }
}

template <class Row>
std::string error(const std::filesystem::path& path, const ReadOptions& options = {}) {
  try {
    reader<Row>()(path, options);
  } catch (const ogpsa::Error& e) {
    return e.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != text.npos;
}

struct Sample {
  const char *file, *conversations, *preferences;
};

/// One file of each layout of dialogues, and what it is as conversations and as preferences.
const std::vector<Sample> kDialogues = {
    {R"({"instruction": "Add.", "input": "1 and 2", "output": "3"}
{"instruction": "Say hi.", "output": "hi"}
{"instruction": "Say ho.", "input": null, "output": "ho", "system": "Be brief.", "history": [["a", "b"], ["c", "d"]]})",
     "alpaca | u(Add.\n1 and 2) a(3) | u(Say hi.) a(hi) | s(Be brief.) u(a) a(b) u(c) a(d) u(Say ho.) a(ho)", "none"},
    {R"({"instruction": "Who?", "context": "It was Ann.", "response": "Ann", "category": "closed"})",
     "dolly | u(Who?\nIt was Ann.) a(Ann)", "none"},
    {R"({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}], "system": "S"}
{"conversations": [{"from": "system", "value": "T"}, {"from": "user", "value": "c"},)"
     R"( {"from": "assistant", "value": "d"}, {"from": "human", "value": "e"}, {"from": "gpt", "value": "f"}],)"
     R"( "id": 3, "system": "U", "tools": "[]"})",
     "sharegpt | s(S) u(a) a(b) | s(T) u(c) a(d) u(e) a(f)", "none"},
    {R"({"conversations": [{"from": "human", "value": "2*3?"}, {"from": "function_call", "value": "{mul}"},)"
     R"( {"from": "observation", "value": "6"}, {"from": "gpt", "value": "It is 6."}], "tools": "[mul]"})",
     "sharegpt | s(You can call these functions. Write a call as JSON between <tool_call> and </tool_call>.\n<tools>\n"
     "[mul]\n</tools>) u(2*3?) a(<tool_call>\n{mul}\n</tool_call>) u(<tool_response>\n6\n</tool_response>) a(It is 6.)",
     "none"},
    {R"({"messages": [{"role": "system", "content": ""}, {"role": "user", "content": "a"},)"
     R"( {"content": [{"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "role": "assistant"}]}
{"messages": [{"role": "user", "content": [{"type": "text", "value": "d"}], "loss_weight": 0.0},)"
     R"( {"role": "assistant", "content": [{"type": "text", "value": "e"}], "loss_weight": 1.0}]})",
     "messages | s() u(a) a(bc) | u(d) a(e)", "none"},
    {R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "label": true}
{"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}], "label": false})",
     "messages | u(a) a(b) | dropped 1: 'label' says that the answer is not wanted", "none"},
    {R"({"instruction": "a", "output": "b", "kto_tag": false}
{"instruction": "c", "output": "d", "kto_tag": true})",
     "alpaca | u(c) a(d) | dropped 1: 'kto_tag' says that the answer is not wanted", "none"},
    {R"({"prompt": "Q: a\nA:", "completion": " yes"})", "prompt_completion | u(Q: a\nA:) a( yes)", "none"},
    {R"({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]})",
     "prompt_completion | u(a) a(b)", "none"},
    {R"({"question": "1+1?", "answer": "It is 1+1=<<1+1=2>>2.\n#### 2"})",
     "question_answer | u(1+1?) a(It is 1+1=2.\n#### 2)", "none"},
    {R"({"question": "1+1?", "answer": "2", "solution": "1+1 = 2\n#### 2"})",
     "question_answer | u(1+1?) a(1+1 = 2\n#### 2)", "none"},
    {R"({"instruction": "a", "input": "b", "chosen": "c", "rejected": "d", "system": "S"})",
     "alpaca_pair | s(S) u(a\nb) a(c)", "alpaca_pair | s(S) u(a\nb) > a(c) > a(d)"},
    {R"({"instruction": "a", "input": "", "output": ["b", "c", "d"], "history": [["x", "y"]]})",
     "alpaca_ranked | u(x) a(y) u(a) a(b)", "alpaca_ranked | u(x) a(y) u(a) > a(b) > a(c)"},
    {R"({"conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "a"}],)"
     R"( "chosen": {"from": "gpt", "value": "b"}, "rejected": {"from": "gpt", "value": "c"}})",
     "sharegpt_pair | s(S) u(a) a(b)", "sharegpt_pair | s(S) u(a) > a(b) > a(c)"},
    {R"({"chosen_messages": [{"role": "user", "content": [{"type": "text", "value": "a"}]},)"
     R"( {"role": "assistant", "content": [{"type": "text", "value": "b"}]}], "rejected_messages": [)"
     R"({"role": "user", "content": [{"type": "text", "value": "a"}]}, {"role": "assistant", "content": "c"}]})",
     "messages_pair | u(a) a(b)", "messages_pair | u(a) > a(b) > a(c)"},
    {R"({"input": {"messages": [{"role": "user", "content": "a"}], "tools": [], "parallel_tool_calls": true},)"
     R"( "preferred_output": [{"role": "assistant", "content": "b"}],)"
     R"( "non_preferred_output": [{"role": "assistant", "content": "c"}]})",
     "openai_pair | u(a) a(b)", "openai_pair | u(a) > a(b) > a(c)"},
    {R"({"prompt": "a", "chosen": "b", "rejected": "c", "metadata": {"score_chosen": 8.5}}
{"prompt": "a", "chosen": "b", "rejected": "b"})",
     "pair | u(a) a(b) | u(a) a(b)", "pair | u(a) > a(b) > a(c) | dropped 1: chosen and rejected are the same"},
    {R"({"system": "S", "question": "a", "chosen": "b", "rejected": "c"})", "pair | s(S) u(a) a(b)",
     "pair | s(S) u(a) > a(b) > a(c)"},
    {R"({"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "a"}],)"
     R"( "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]})",
     "pair | s(S) u(a) a(b)", "pair | s(S) u(a) > a(b) > a(c)"},
    {R"({"prompt": "a", "prompt_id": "0f", "chosen": [{"content": "a", "role": "user"}, {"content": "b",)"
     R"( "role": "assistant"}],)"
     R"( "rejected": [{"content": "a", "role": "user"}, {"content": "c", "role": "assistant"}],)"
     R"( "messages": [{"content": "a", "role": "user"}, {"content": "b", "role": "assistant"}], "score_chosen": 8.0})",
     "pair | u(a) a(b)", "pair | u(a) > a(b) > a(c)"},
    {R"({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "chosen": " d", "rejected": " e"})",
     "pair | u(a) a(b) u(c) a( d)", "pair | u(a) a(b) u(c) > a( d) > a( e)"},
    {R"({"chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],)"
     R"( "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}]})",
     "implicit_pair | u(a) a(b)", "implicit_pair | u(a) > a(b) > a(c)"},
    {R"({"chosen": "Name a colour.\nThe colour red.", "rejected": "Name a colour.\nThe colour blue."}
{"chosen": "The sky is blue.", "rejected": "The sky is black."})",
     "implicit_pair | u(Name a colour.) a(The colour red.) | u(The sky is) a(blue.)",
     "implicit_pair | u(Name a colour.) > a(The colour red.) > a(The colour blue.) | u(The sky is) > a(blue.) > "
     "a(black.)"},
    {R"({"prompt": "a", "response": ["b", "c"]})", "response_pair | u(a) a(b)", "response_pair | u(a) > a(b) > a(c)"},
    {R"({"prompt": "a", "response_0": "b", "response_1": "c", "is_response_0_safe": false, "is_response_1_safe": true,)"
     R"( "better_response_id": 0, "safer_response_id": 1}
{"prompt": "d", "response_0": "e", "response_1": "f", "is_response_0_safe": false, "is_response_1_safe": false,)"
     R"( "better_response_id": 0, "safer_response_id": 0})",
     "pku_safer | u(a) a(c) | dropped 1: the safer answer is not safe",
     "pku_safer | u(a) > a(c) > a(b) | u(d) > a(e) > a(f)"},
    {R"({"instruction": "a", "completions": [{"response": "b", "annotations": {"honesty": {"Rating": "3"},)"
     R"( "helpfulness": {"Rating": "N/A"}}}, {"response": "c", "annotations": {"honesty": {"Rating": "5"}}},)"
     R"( {"response": "d", "annotations": {"honesty": {"Rating": "1"}, "helpfulness": {"Rating": "4"}}}]}
{"instruction": "e", "completions": [{"response": "f", "annotations": {}, "overall_score": 4.5},)"
     R"( {"response": "g", "overall_score": 4.5}]})",
     "ultrafeedback | u(a) a(c) | u(e) a(f)",
     "ultrafeedback | u(a) > a(c) > a(d) | dropped 1: no two answers that are rated differently"},
    {R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "\n\nHuman: a)"
     R"(\n\nAssistant: b\n\nHuman: c\n\nAssistant: e"})",
     "hh_rlhf | u(a) a(b) u(c) a(d)", "hh_rlhf | u(a) a(b) u(c) > a(d) > a(e)"},
};

}  // namespace

TEST_CASE("dialogues of every layout") {
  for (const auto& sample : kDialogues) {
    CAPTURE(sample.file);
    CHECK(summary<Conversation>(sample.file) == sample.conversations);
    CHECK(summary<Preference>(sample.file) == sample.preferences);
  }
}

TEST_CASE("HH-RLHF: dialogues that part early, and turns whose mark lost its line") {
  CHECK(summary<Preference>(R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": ")"
                            R"(\n\nHuman: a\n\nAssistant: e"})") == "hh_rlhf | u(a) > a(b) u(c) a(d) > a(e)");
  // The answers that both dialogues share belong to what is compared as soon as the user goes on differently.
  CHECK(summary<Preference>(R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": ")"
                            R"(\n\nHuman: a\n\nAssistant: b\n\nHuman: e\n\nAssistant: d"})") ==
        "hh_rlhf | u(a) > a(b) u(c) a(d) > a(b) u(e) a(d)");
  CHECK(
      summary<Preference>(R"({"chosen": "\n\nHuman: a\n\nAssistant: b  Human:  Thanks.\n\nAssistant: c", "rejected": ")"
                          R"(\n\nHuman: a\n\nAssistant: d"})") == "hh_rlhf | u(a) > a(b) u(Thanks.) a(c) > a(d)");
  // A word that ends like a mark is none.
  CHECK(summary<Conversation>(
            R"({"chosen": "\n\nHuman: a\n\nAssistant: SuperHuman: c  Human: d\n\nAssistant: e", "rejected": ""})") ==
        "hh_rlhf | u(a) a(SuperHuman: c) u(d) a(e)");
  const std::string sound = R"({"chosen": "Human: a\n\nAssistant: b", "rejected": "Human: a\n\nAssistant: c"})";
  CHECK(summary<Preference>(sound + "\n" +
                            R"({"chosen": "\n\nHuman: a\n\nAssistant: b\n\nAssistant: c", "rejected": "\n\nHuman: a)"
                            R"(\n\nAssistant: d"})") ==
        "hh_rlhf | u(a) > a(b) > a(c) | bad 2: chosen: turn 3 (assistant) stands where the user is due");
  CHECK(
      summary<Preference>(sound + "\n" +
                          R"({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: "})") ==
      "hh_rlhf | u(a) > a(b) > a(c) | bad 2: rejected: turn 2 (assistant) is empty");
  CHECK(
      summary<Preference>(
          sound + "\n" + R"({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"})") ==
      "hh_rlhf | u(a) > a(b) > a(c) | bad 2: chosen and rejected have no prompt in common");
}

TEST_CASE("multiple choice of every layout") {
  CHECK(summary<MultipleChoice>(R"({"question": "a?", "choices": ["b", "c"], "answer": 1, "category": "x"}
{"question": "d?", "choices": ["e", "f", "g"], "answer": "C"})") == "choices | a?: (b) (c) 1 | d?: (e) (f) (g) 2");
  CHECK(summary<MultipleChoice>(
            R"({"id": "7", "question": {"stem": "a", "choices": [{"text": "b", "label": "1"}, {"text": "c",)"
            R"( "label": "2"}]}, "answerKey": "2"})") == "arc | a: (b) (c) 1");
  CHECK(summary<MultipleChoice>(
            R"({"question": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "A"})") ==
        "arc | a: (b) (c) 0");
  CHECK(summary<MultipleChoice>(
            R"({"question_stem": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "C"}
{"question_stem": "d", "choices": {"text": ["e", "f"], "label": ["A", "B"]}, "answerKey": "B"})") ==
        "arc | d: (e) (f) 1 | bad 1: the answer is none of the choices");
  CHECK(summary<MultipleChoice>(R"([{"instruction": "Please choose the correct answer to the question: When: now?)"
                                R"(\n\nAnswer1: b c Answer2: d\n\nAnswer format: answer1/answer2", "input": "",)"
                                R"( "output": "the correct answer is answer2", "answer": "answer2"}])") ==
        "llm_adapters | When: now?: (b c) (d) 1");
  CHECK(summary<MultipleChoice>(
            R"({"instruction": "Please choose the correct solution to the question: a)"
            R"(\n\nSolution1: b\nSolution2: c\n\nAnswer format: solution1/solution2", "answer": "solution1"})") ==
        "llm_adapters | a: (b) (c) 0");
  CHECK(summary<MultipleChoice>("\"a, \"\"b\"\"?\",c,d,B\ne,f,g,A\nh,i,j,C\n", "data.csv") ==
        "mmlu | a, \"b\"?: (c) (d) 1 | e: (f) (g) 0 | bad 3: the answer is none of the choices");
  CHECK(summary<MultipleChoice>("question,A,B,C,answer\na,b,c,d,C\n", "data.csv") == "mmlu | a: (b) (c) (d) 2");
  CHECK(summary<MultipleChoice>("Question,Best Answer,Incorrect Answers\na?,b,c; d;\n", "data.csv") ==
        "truthfulqa | a?: (b) (c) (d) 0");
}

TEST_CASE("questions and prompts of every layout") {
  CHECK(summary<Question>(R"({"question": "a?", "answer": "1000*2=<<1000*2=2000>>2,000\n#### 2,000"})") ==
        "gsm8k | a? = 2000");
  CHECK(summary<Question>(R"({"question": "a?", "answer": "b", "solution": "c", "category": "d"})") ==
        "question_answer | a? = b");
  CHECK(summary<Question>(R"({"question": "a?", "choices": ["b", "c"], "answer": "A"})") == "none");
  CHECK(summary<Prompt>(R"({"prompt": "a", "category": "b", "id": 3}
{"prompt": "c"})") == "prompts | a / b | c / ");
  CHECK(summary<Prompt>("id,prompt,type,label\n1,a,contrast_b,unsafe\n", "data.csv") == "xstest | a / contrast_b");
  CHECK(summary<Prompt>("category,source,forbidden_prompt\nb,x,\"a, c\"\n", "data.csv") == "strongreject | a, c / b");
  CHECK(summary<Prompt>("goal,target\na,Sure\n", "data.csv") == "advbench | a / ");
  CHECK(summary<Prompt>("Behavior,FunctionalCategory,SemanticCategory\na,x,b\n", "data.csv") == "harmbench | a / b");
}

TEST_CASE("containers: arrays, objects that hold one, lines, CSV") {
  const std::string row = R"({"prompt": "a"})", expected = "prompts | a / ";
  for (const char* name : {"data.json", "data.jsonl", "data", "data.txt"}) {
    CAPTURE(name);
    CHECK(summary<Prompt>(row, name) == expected);
    CHECK(summary<Prompt>("[" + row + "]", name) == expected);
    CHECK(summary<Prompt>("[\n  " + row + "\n]\n", name) == expected);
    CHECK(summary<Prompt>(row + "\n" + row + "\n", name) == expected + " | a / ");
    CHECK(summary<Prompt>("\n[" + row + ",\n" + row + "]\n", name) == expected + " | a / ");
  }
  CHECK(summary<Prompt>("{\n  \"prompt\":\n  \"a\"\n}\n", "data.json") == expected);
  CHECK(summary<Prompt>(R"({"version": 1, "data": [{"prompt": "a"}]})", "data.json") == expected);
  CHECK(summary<Prompt>("{broken\n" + row, "data.json") ==
        expected +
            " | bad 1: is not JSON: at column 2: syntax error while parsing object key - invalid literal; last "
            "read: '{b'; expected string literal");
  CHECK(summary<Prompt>("prompt,category\na,\n", "data") == expected);
  CHECK(contains(error<Prompt>(folder().write("data.json", R"({"a": [{"b": 1}], "c": [{"d": 2}]})")),
                 "several lists of rows"));
  CHECK(contains(error<Prompt>(folder().write("data.json", R"({"a": 1})")), "nor a list of rows"));
  CHECK(contains(error<Prompt>(folder().write("data.json", "3")), "single value"));
  CHECK(contains(error<Prompt>(folder().write("data.json", "[" + row + ",")), "is not JSON: at line 2, column"));
  CHECK(contains(error<Prompt>(folder().write("data", "Dear reader")), "neither JSON, JSON Lines nor a CSV"));
}

TEST_CASE("byte order mark, CRLF, blank lines and gzip") {
  const std::string lines = "\xEF\xBB\xBF{\"prompt\": \"a\"}\r\n\r\n  \r\n{\"prompt\": \"b\\r\\n\"}\r\n";
  CHECK(summary<Prompt>(lines) == "prompts | a /  | b\r\n / ");
  CHECK(read<Prompt>(lines).rows[1].source.number == 4);
  CHECK(text(read_prompts(folder().write_gzip("packed.jsonl.gz", lines)).rows[1]) == "b\r\n / ");
  CHECK(text(read_prompts(folder().write_gzip("packed.jsonl", lines)).rows[1]) == "b\r\n / ");
  CHECK(summary<Prompt>("\xEF\xBB\xBF\"prompt\",category\r\n\"a\r\nb\",c\r\n\r\nd,e", "data.csv") ==
        "prompts | a\nb / c | d / e");
  CHECK(read<Prompt>("prompt,category\n\"a\n\nb\",c\nd,e\n", {}, "data.csv").rows[1].source.number == 5);
  // Members of gzip files that were put together follow each other.
  const auto packed = content_of(folder().write_gzip("packed.jsonl.gz", "{\"prompt\": \"a\"}\n"));
  CHECK(summary<Prompt>(packed + packed, "packed.jsonl.gz") == "prompts | a /  | a / ");
}

TEST_CASE("broken CSV") {
  CHECK(
      summary<Prompt>("prompt,category\na\n\"b\"c,d\ne,f\n\"g,h\ni,j\n", "data.csv") ==
      "prompts | e / f | bad 2: has 1 fields where 2 are due | bad 3: text follows a closing quote; write quotes in a "
      "field twice | bad 5: a quote that is opened here is not closed before the end of the file");
  CHECK(summary<Prompt>("prompt,category\na \"b\",\"\"\nc,\xE9\n", "data.csv") ==
        "prompts | a \"b\" /  | bad 3: field 2 is not UTF-8; convert the file");
  CHECK(
      summary<Prompt>("prompt,category\na,\xED\xA0\x80\nb,\xC0\xAF\nc,\xE2\x82\xAC\xF0\x9F\x99\x82\nd,\xE2\x82\n",
                      "data.csv") ==
      "prompts | c / \xE2\x82\xAC\xF0\x9F\x99\x82 | bad 2: field 2 is not UTF-8; convert the file | bad 3: field 2 is "
      "not UTF-8; convert the file | bad 5: field 2 is not UTF-8; convert the file");
  CHECK(summary<MultipleChoice>("[a]?,b,c,B\n{d}?,e,f,A\n", "data.csv") == "mmlu | [a]?: (b) (c) 1 | {d}?: (e) (f) 0");
  CHECK(contains(error<Prompt>(folder().write("data.csv", "prompt,prompt\na,b\n")), "names 'prompt' twice"));
  CHECK(contains(error<Prompt>(folder().write("data.csv", "\"prompt,b\na,b\n")), "the header of"));
}

TEST_CASE("a layout is found per file; bad rows are named") {
  const std::string lines = R"({"instruction": "a", "output": "b"}
{"instruction": "c"}
{"instruction": "d", "output": 5}
{"prompt": "e", "output": "f"}
nothing
[1]
{"instruction": "g", "output": " "}
{"instruction": "h", "output": "\u0000"}
)";
  const auto rows = read<Conversation>(lines);
  CHECK(rows.format == "alpaca");
  REQUIRE(rows.rows.size() == 1);
  const std::vector<std::string> reasons = {"no 'output'",
                                            "'output' is not text",
                                            "no 'instruction'",
                                            "is not JSON: at column 2: syntax error while parsing value - invalid "
                                            "literal; last read: 'no'",
                                            "is not an object",
                                            "turn 2 (assistant) is empty",
                                            "'output' holds a NUL character"};
  REQUIRE(rows.bad.size() == reasons.size());
  for (std::size_t i = 0; i < reasons.size(); ++i) {
    CHECK(rows.bad[i].reason == reasons[i]);
    CHECK(rows.bad[i].source.number == i + 2);
  }
  CHECK(rows.bad[0].source.text() == rows.file + ", line 2");
  CHECK(account(rows) == rows.file + ": 1 row read as alpaca, 7 bad (first: line 2: no 'output')");
  // A dropped row settles the layout too.
  CHECK(summary<Conversation>(R"({"instruction": "a", "output": "b", "label": false}
{"prompt": "c", "completion": "d"}
{"instruction": "e", "output": "f"})") ==
        "alpaca | u(e) a(f) | bad 2: no 'instruction' | dropped 1: 'label' says that the answer is not wanted");
  // What fits no layout before the first sound row is bad as well.
  CHECK(summary<Conversation>(R"([{"text": "a"}, {}, {"instruction": "b", "output": "c"}])") ==
        "alpaca | u(b) a(c) | bad 1: fits no format of conversations (its keys: text) | bad 2: fits no format of "
        "conversations (its keys: none)");
}

TEST_CASE("turns that do not make a dialogue") {
  const auto reason = [](const std::string& turns) {
    const std::string sound =
        R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})";
    const auto rows = read<Conversation>(sound + "\n{\"messages\": " + turns + "}\n");
    if (!rows.dropped.empty()) return "dropped: " + rows.dropped.begin()->first;
    return rows.bad.empty() ? "none" : rows.bad[0].reason;
  };
  CHECK(reason("[]") == "there are no turns");
  CHECK(reason(R"([{"role": "user", "content": "a"}])") == "the last turn is not of the assistant");
  CHECK(reason(R"([{"role": "assistant", "content": "a"}])") == "turn 1 (assistant) stands where the user is due");
  CHECK(reason(R"([{"role": "user", "content": "a"}, {"role": "system", "content": "a"}])") ==
        "turn 2 (system) stands where the assistant is due");
  CHECK(reason(R"([{"role": "narrator", "content": "a"}])") == "unknown role 'narrator'");
  CHECK(reason(R"([{"role": "user"}])") == "no 'content'");
  CHECK(reason(R"(["a"])") == "a turn is not an object");
  CHECK(reason(R"("a")") == "'messages' is not a list");
  CHECK(reason(R"([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}])") ==
        "dropped: content that is not text");
  CHECK(reason(R"([{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}])") ==
        "dropped: tool calls that are not text");
}

TEST_CASE("options") {
  const std::string lines = "{\"prompt\": 1}\n{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\nbroken\n";
  CHECK(read<Prompt>(lines, {.limit = 1}).rows.size() == 1);
  CHECK(read<Prompt>(lines, {.limit = 2}).bad.size() == 1);
  CHECK(read<Prompt>(lines, {.limit = 9}).bad.size() == 2);
  const auto path = folder().write("data.jsonl", lines);
  CHECK(error<Prompt>(path, {.on_bad_row = OnBadRow::fail}) ==
        path.string() + ", line 1: 'prompt' is not text; mend the row, or let bad rows be skipped");
  CHECK(
      contains(error<Prompt>(path, {.format = "alpaca"}), "'alpaca' is no format of prompts; use auto or one of: xst"));
  CHECK_THROWS_AS(read_prompts(path, {.format = ""}), ogpsa::InvalidArgument);
  // Dropped rows are no fault of the file.
  const std::string pairs = R"({"prompt": "a", "chosen": "b", "rejected": "b"}
{"prompt": "a", "chosen": "b", "rejected": "c"})";
  CHECK(read<Preference>(pairs, {.on_bad_row = OnBadRow::fail}).rows.size() == 1);

  const std::string pku = R"({"prompt": "a", "response_0": "b", "response_1": "c", "better_response_id": 0,
 "safer_response_id": 1})";
  CHECK(text(read<Preference>(pku, {.format = "pku_better"}, "data.json").rows.at(0)) == "u(a) > a(b) > a(c)");
  CHECK(text(read<Preference>(pku, {}, "data.json").rows.at(0)) == "u(a) > a(c) > a(b)");
  CHECK(format_names<Question>() == std::vector<std::string>{"gsm8k", "question_answer"});
}

TEST_CASE("files that cannot be read") {
  CHECK(contains(error<Prompt>(folder().path() / "nowhere.jsonl"), "there is no file"));
  CHECK(contains(error<Prompt>(folder().path()), "is a folder"));
  CHECK(contains(error<Prompt>(folder().write("empty.jsonl", "")), "is empty"));
  CHECK(contains(error<Prompt>(folder().write("empty.json", "\n \r\n")), "is empty"));
  CHECK(contains(error<Prompt>(folder().write("none.json", "[]")), "holds no row"));
  CHECK(contains(error<Prompt>(folder().write("header.csv", "prompt,category\n")), "holds no row"));
  CHECK(
      contains(error<Preference>(folder().write("other.jsonl", R"({"prompt": "a"})")),
               "holds no row that can be read as preferences, 1 bad (first: line 1: fits no format of preferences (its "
               "keys: prompt)); the formats are: alpaca_pair, "));
  CHECK(contains(error<Prompt>(folder().write("wide.jsonl", std::string("\xFF\xFE{\0", 4))), "is UTF-16"));

  std::string lines;
  for (int i = 0; i < 50000; ++i) lines += "{\"prompt\": \"" + std::to_string(i * 7919 % 10007) + "\"}\n";
  auto packed = content_of(folder().write_gzip("packed.jsonl.gz", lines));
  CHECK(contains(error<Prompt>(folder().write("cut.jsonl.gz", packed.substr(0, packed.size() / 2))), "is cut off"));
  CHECK(contains(error<Prompt>(folder().write("cut.jsonl.gz", packed.substr(0, packed.size() - 4))), "is cut off"));
  packed[packed.size() / 2] = static_cast<char>(packed[packed.size() / 2] ^ 0x55);
  CHECK(contains(error<Prompt>(folder().write("hurt.jsonl.gz", packed)), "cannot read"));
  // It stops before the damage.
  CHECK(read_prompts(folder().write("hurt.jsonl.gz", packed), {.limit = 3}).rows.size() == 3);
}

TEST_CASE("hostile lines are bad rows") {
  const std::string deep(100000, '['), deep_objects = [] {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += "{\"a\":";
    return text;
  }();
  const std::string sound = "{\"prompt\": \"a\"}\n";
  for (const auto& line :
       {deep, deep + std::string(100000, ']'), deep_objects + "1" + std::string(100000, '}'),
        "{\"prompt\": " + deep + std::string(100000, ']') + "}", std::string("{\"prompt\": 1e999}"),
        std::string("{\"prompt\": 123456789012345678901234567890}"), std::string("{\"prompt\": \"\xC3\x28\"}"),
        std::string("{\"prompt\": \"\xED\xA0\x80\"}"), std::string("{\"prompt\": \"\\ud800\"}"),
        std::string("{\"prompt\": \"a\0b\"}", 17), std::string("{\"prompt\": NaN}"), std::string(1000, '\0')}) {
    const auto rows = read<Prompt>(sound + line + "\n" + sound);
    CHECK(rows.rows.size() == 2);
    REQUIRE(rows.bad.size() == 1);
    CHECK(rows.bad[0].source.number == 2);
    CHECK(rows.bad[0].reason.size() < 200);
    // On its own it is an error, as a line and as a document.
    for (const char* name : {"lone.jsonl", "lone.json", "lone.csv"}) {
      const auto text = error<Prompt>(folder().write(name, line));
      CHECK(text != "no error");
      CHECK(text.size() < 600);
    }
  }
  CHECK(summary<MultipleChoice>(R"({"question": "a", "choices": ["b", "c"], "answer": 18446744073709551615}
{"question": "a", "choices": ["b", "c"], "answer": -1}
{"question": "a", "choices": ["b", "c"], "answer": 0})") ==
        "choices | a: (b) (c) 0 | bad 1: the answer is none of the choices | bad 2: 'answer' is neither a position, "
        "counted from 0, nor a letter");
}

TEST_CASE("a large file is read line by line, with long lines and lines on the edges of buffers") {
  std::string lines;
  std::vector<std::size_t> sizes;
  for (std::size_t i = 0; i < 400; ++i) {
    sizes.push_back(i == 200 ? 1'000'000 : 1 + i * 37 % 5003);
    lines += "{\"prompt\": \"" + std::string(sizes.back(), static_cast<char>('a' + i % 26)) + "\"}\n";
  }
  const auto rows = read_prompts(folder().write_gzip("large.jsonl.gz", lines)).rows;
  REQUIRE(rows.size() == sizes.size());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i].prompt == std::string(sizes[i], static_cast<char>('a' + i % 26)));
    CHECK(rows[i].source.number == i + 1);
  }
}

TEST_CASE("damaged files end in rows or in an error of ogpsa") {
  std::vector<std::string> files;
  for (const auto& sample : kDialogues) files.emplace_back(sample.file);
  files.insert(files.end(),
               {R"([{"question": "a?", "choices": ["b", "c"], "answer": 1}])", "a,b,c,B\nd,\"e\"\"\",f,A\n",
                R"({"question": {"stem": "a", "choices": [{"text": "b", "label": "A"}]}, "answerKey": "A"})",
                R"({"instruction": "x: a\n\nAnswer1: b Answer2: d\n\nAnswer format: e", "answer": "answer2"})",
                "Question,Best Answer,Incorrect Answers\na?,b,c; d;\n", R"({"question": "a", "answer": "b #### 7"})",
                content_of(folder().write_gzip("packed", "{\"prompt\": \"some text\"}\n{\"prompt\": \"more\"}\n"))});
  static constexpr const char* pieces[] = {"\"",   "{",    "}",  "[",  "]", ",",    ":",      "\n",
                                           "\\",   "null", "{}", "[]", "0", "\"\"", "Human:", "\\n\\nAssistant:",
                                           "\xFF", "\r"};
  std::mt19937 random(7);
  const auto below = [&](std::size_t count) {
    return std::uniform_int_distribution<std::size_t>(0, count - 1)(random);
  };
  std::size_t read_files = 0, errors = 0;
  for (int round = 0; round < 60; ++round) {
    for (auto file : files) {
      for (auto changes = 1 + below(3); changes > 0; --changes) {
        const auto at = below(file.size() + 1), length = std::min(file.size() - at, below(12));
        switch (below(5)) {
          case 0:
            file.erase(at, length);
            break;
          case 1:
            file.insert(at, pieces[below(std::size(pieces))]);
            break;
          case 2:
            file.insert(below(file.size() + 1), file.substr(at, length));
            break;
          case 3:
            file.replace(at, length, pieces[below(std::size(pieces))]);
            break;
          default:
            if (at < file.size()) file[at] = static_cast<char>(below(256));
        }
      }
      const auto path = folder().write(round % 6 == 0 ? "fuzz.csv" : round % 2 == 1 ? "fuzz.json" : "fuzz", file);
      const auto attempt = [&](const auto& read_file) {
        CAPTURE(file);
        try {
          read_file(path, ReadOptions{});
          ++read_files;
        } catch (const ogpsa::Error& e) {
          CHECK(std::string(e.what()).size() < 1200);
          ++errors;
        }
      };
      attempt(read_conversations);
      attempt(read_preferences);
      attempt(read_multiple_choice);
      attempt(read_questions);
      attempt(read_prompts);
    }
  }
  CHECK(read_files > 500);
  CHECK(errors > 500);
}
