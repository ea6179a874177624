#include <doctest/doctest.h>

#include <ogpsa/error.hpp>

#include "text/chat.hpp"
#include "text_support.hpp"

using namespace align;
using namespace align::test;

namespace {

using Json = nlohmann::json;

struct Known {
  const char* fixture;
  const char* name;
};
constexpr Known kKnown[] = {{"llama", "llama3.1"}, {"qwen", "qwen2.5"}, {"smollm", "smollm2"}};

std::vector<Message> messages_of(const Json& json) {
  std::vector<Message> messages;
  for (const auto& message : json) {
    messages.push_back({message.at("role").get<std::string>(), message.at("content").get<std::string>()});
  }
  return messages;
}

std::vector<int> numbers(const std::vector<bool>& flags) { return {flags.begin(), flags.end()}; }

/// The words by which a template is known, in what is no template itself.
std::string features(const std::string& name) {
  if (name == "llama3.1") {
    return R"({{- bos_token }} set date_string = "26 Jul 2024" <|start_header_id|> set system_message = "" )"
           R"(Cutting Knowledge Date: December 2023 message['content'] | trim)";
  }
  if (name == "smollm2") {
    return "messages[0]['role'] != 'system' <|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained "
           "by Hugging Face<|im_end|>\n";
  }
  const std::string system = name == "qwen2.5" ? "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
                                               : "You are a helpful assistant.";
  return R"(<tools></tools> (message.role == "system" and not loop.first) '<|im_start|>system\n)" + system +
         R"(<|im_end|>\n')";
}

std::string config_with(const std::string& chat_template) {
  return Json{{"bos_token", nullptr}, {"eos_token", "<|im_end|>"}, {"chat_template", chat_template}}.dump();
}

std::string error_of(const TokenizerFolder& folder, const std::shared_ptr<const Tokenizer>& tokenizer) {
  try {
    ChatTemplate(tokenizer, folder.path());
  } catch (const ogpsa::Error& error) {
    return error.what();
  }
  return "no error";
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("conversations become the tokens of apply_chat_template, and the answers are marked") {
  for (const auto& [name, format] : kKnown) {
    const auto fixture = text_fixture(name);
    const TokenizerFolder folder(fixture.at("tokenizer"));
    const Json config{{"bos_token", fixture.at("bos_token")}, {"eos_token", fixture.at("eos_token")}};
    folder.write("tokenizer_config.json", config.dump());
    const ChatTemplate chat(std::make_shared<const BpeTokenizer>(folder.path()), folder.path(), chat_format(format));
    REQUIRE(!fixture.at("chat").empty());
    for (const auto& value : fixture.at("chat")) {
      CAPTURE(name);
      CAPTURE(value.at("messages"));
      const auto rendered =
          chat.render(messages_of(value.at("messages")), value.at("add_generation_prompt").get<bool>());
      CHECK(rendered.tokens == value.at("tokens").get<Tokens>());
      CHECK(numbers(rendered.answer) == value.at("answer").get<std::vector<int>>());
    }
  }
}

TEST_CASE("the answer is the content and the token that ends the turn, after the messages that are prompt") {
  const std::vector<Message> messages = {
      {"user", "Why?"}, {"assistant", "No bread."}, {"user", "And now?"}, {"assistant", "Still none."}};
  for (const auto& [name, format] : kKnown) {
    const auto tokenizer = make_tokenizer(text_fixture(name).at("tokenizer"));
    const ChatTemplate chat(tokenizer, "/no/such/folder", chat_format(format));
    const auto answers = [&](std::size_t prompt_messages) {
      const auto rendered = chat.render(messages, false, prompt_messages);
      Tokens answer;
      for (std::size_t i = 0; i < rendered.tokens.size(); ++i) {
        if (rendered.answer[i]) answer.push_back(rendered.tokens[i]);
      }
      return tokenizer->decode(answer, /*skip_special=*/false);
    };
    const std::string end = format == std::string("llama3.1") ? "<|eot_id|>" : "<|im_end|>";
    CHECK(answers(0) == "No bread." + end + "Still none." + end);
    CHECK(answers(3) == "Still none." + end);
    CHECK(answers(4) == "");
    CHECK(chat.end_of_turn() == tokenizer->id(end));
  }
}

TEST_CASE("a conversation without template is its contents, and an end where it ends with an answer") {
  const auto tokenizer = make_tokenizer(text_fixture("llama").at("tokenizer"));
  const ChatTemplate chat(tokenizer, "/no/such/folder", ChatFormat::none);
  const std::vector<Message> messages = {{"system", "S\n"}, {"user", "Q: bread?\nA:"}, {"assistant", " rye"}};
  const auto rendered = chat.render(messages, false, /*prompt_messages=*/2);
  Tokens expected = {tokenizer->bos().value()};
  for (const char* part : {"S\n", "Q: bread?\nA:"}) {
    for (const auto token : tokenizer->encode(part)) expected.push_back(token);
  }
  const std::vector<Message> prompt(messages.begin(), messages.end() - 1);
  CHECK(chat.render(prompt, true).tokens == expected);
  const auto begin = expected.size();
  for (const auto token : tokenizer->encode(" rye")) expected.push_back(token);
  expected.push_back(tokenizer->id("<|end_of_text|>").value());
  CHECK(rendered.tokens == expected);
  for (std::size_t i = 0; i < expected.size(); ++i) CHECK(rendered.answer[i] == (i >= begin));
  CHECK(chat.text(messages, false) == "S\nQ: bread?\nA: rye<|end_of_text|>");
  CHECK(chat.end_of_turn() == expected.back());
}

TEST_CASE("the template is known by the model's own") {
  for (const auto& [name, format] : kKnown) {
    const TokenizerFolder folder(text_fixture(name).at("tokenizer"));
    const auto tokenizer = std::make_shared<const BpeTokenizer>(folder.path());
    CHECK(contains(error_of(folder, tokenizer), "no chat template"));
    folder.write("tokenizer_config.json", config_with(features(format)));
    CHECK(ChatTemplate(tokenizer, folder.path()).format() == chat_format(format));
    const Json list = {{{"name", "rag"}, {"template", "?"}}, {{"name", "default"}, {"template", features(format)}}};
    folder.write("tokenizer_config.json", Json{{"chat_template", list}}.dump());
    CHECK(ChatTemplate(tokenizer, folder.path()).format() == chat_format(format));
    folder.write("chat_template.jinja", "{{ 'of another kind' }}");  // counts more than tokenizer_config.json
    CHECK(contains(error_of(folder, tokenizer), "of another kind"));
    CHECK(contains(error_of(folder, tokenizer), "--chat_template llama3.1|qwen2.5|smollm2|none"));
    CHECK(ChatTemplate(tokenizer, folder.path(), chat_format(format)).format() == chat_format(format));
    folder.write("chat_template.jinja", features(format));
    CHECK(ChatTemplate(tokenizer, folder.path()).format() == chat_format(format));
  }
}

TEST_CASE("templates of other models of the same families are not taken for known ones") {
  const TokenizerFolder folder(text_fixture("qwen").at("tokenizer"));
  const auto tokenizer = std::make_shared<const BpeTokenizer>(folder.path());
  const auto rejected = [&](const std::string& chat_template) {
    folder.write("tokenizer_config.json", config_with(chat_template));
    return contains(error_of(folder, tokenizer), "not one that is built in");
  };
  CHECK(rejected(features("qwen2.5") + "<think>"));
  CHECK(rejected(features("qwen2.5") + "<|vision_start|>"));
  CHECK(rejected(features("smollm2") + "/no_think"));
  CHECK(rejected(features("llama3.1") + "strftime_now"));
  CHECK(rejected("<|im_start|>"));
  CHECK(rejected(""));
}

TEST_CASE("a base model of Qwen2.5 has a system turn of its own") {
  const TokenizerFolder folder(text_fixture("qwen").at("tokenizer"));
  const auto tokenizer = std::make_shared<const BpeTokenizer>(folder.path());
  folder.write("tokenizer_config.json", config_with(features("qwen2.5 base")));
  const std::string begin = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n";
  CHECK(ChatTemplate(tokenizer, folder.path()).text({{"user", "Hi"}}, false) == begin + "Hi<|im_end|>\n");
  CHECK(ChatTemplate(tokenizer, folder.path(), ChatFormat::qwen2_5).text({{"user", ""}}, false).starts_with(begin));
}

TEST_CASE("what cannot be rendered is an error") {
  const auto tokenizer = make_tokenizer(text_fixture("qwen").at("tokenizer"));
  for (const auto format : {ChatFormat::qwen2_5, ChatFormat::smollm2, ChatFormat::none}) {
    const ChatTemplate chat(tokenizer, "/no/such/folder", format);
    CHECK_THROWS_AS(chat.render({}, true), ogpsa::InvalidArgument);
    CHECK_THROWS_AS(chat.render({{"tool", "4"}}, true), ogpsa::InvalidArgument);
    CHECK_THROWS_AS(chat.render({{"user", "2+2?"}, {"User", "4"}}, true), ogpsa::InvalidArgument);
  }
  CHECK_THROWS_AS(chat_format("llama2"), ogpsa::InvalidArgument);
  CHECK_THROWS_AS(chat_format(""), ogpsa::InvalidArgument);
}

TEST_CASE("a tokenizer without the special tokens of the template is an error") {
  const auto qwen = make_tokenizer(text_fixture("qwen").at("tokenizer"));
  CHECK_THROWS_AS(ChatTemplate(qwen, "/no/such/folder", ChatFormat::llama3_1), ogpsa::InvalidArgument);
  const auto llama = make_tokenizer(text_fixture("llama").at("tokenizer"));
  CHECK_THROWS_AS(ChatTemplate(llama, "/no/such/folder", ChatFormat::smollm2), ogpsa::InvalidArgument);
  // It must be a special token, not only a word of the vocabulary.
  auto json = text_fixture("smollm").at("tokenizer");
  json["added_tokens"] = Json::array();
  CHECK_THROWS_AS(ChatTemplate(make_tokenizer(json), "/no/such/folder", ChatFormat::smollm2), ogpsa::InvalidArgument);
}

TEST_CASE("special tokens that take text beside them do not fit a template") {
  auto json = text_fixture("qwen").at("tokenizer");
  for (auto& token : json["added_tokens"]) token["lstrip"] = true;
  const ChatTemplate chat(make_tokenizer(json), "/no/such/folder", ChatFormat::qwen2_5);
  CHECK_THROWS_AS(chat.render({{"user", "Hi"}}, true), ogpsa::InvalidArgument);
}

TEST_CASE("a damaged configuration is an error") {
  const TokenizerFolder folder(text_fixture("qwen").at("tokenizer"));
  const auto tokenizer = std::make_shared<const BpeTokenizer>(folder.path());
  folder.write("tokenizer_config.json", "{");
  CHECK_THROWS_AS(ChatTemplate(tokenizer, folder.path()), ogpsa::FileError);
  folder.write("tokenizer_config.json", R"({"chat_template": 3})");
  CHECK(contains(error_of(folder, tokenizer), "chat_template = 3"));
  folder.write("tokenizer_config.json", R"({"eos_token": {"content": 3}})");
  CHECK(contains(error_of(folder, tokenizer), "eos_token.content = 3"));
}
