#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>
#include <string>

#include "text/bpe_tokenizer.hpp"
#include "text/chat.hpp"

/// \file
/// Tokens of what stands on the lines of the standard input, one line each; check_tokenizers.sh compares them.
///
///     tokenize_lines FOLDER encode   a JSON text, or {"hex": "<bytes>"}        -> [ids]
///     tokenize_lines FOLDER decode   [ids]                                     -> [text, text without special tokens]
///     tokenize_lines FOLDER chat [TEMPLATE]   {"messages": [{"role", "content"}, ...], "add_generation_prompt": false}
///                                                                              -> {"tokens": [ids], "answer": [0 or
///                                                                              1]}

namespace {

using Json = nlohmann::json;

std::string bytes(const Json& line) {
  if (line.is_string()) return line.get<std::string>();
  const auto hex = line.at("hex").get<std::string>();
  std::string result;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    result += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return result;
}

Json decode(const align::Tokenizer& tokenizer, const Json& line) {
  const auto tokens = line.get<align::Tokens>();
  return {tokenizer.decode(tokens, /*skip_special=*/false), tokenizer.decode(tokens, /*skip_special=*/true)};
}

Json chat(const align::ChatTemplate& chat_template, const Json& line) {
  std::vector<align::Message> messages;
  for (const auto& message : line.at("messages")) {
    messages.push_back({message.at("role").get<std::string>(), message.at("content").get<std::string>()});
  }
  const auto rendered = chat_template.render(messages, line.at("add_generation_prompt").get<bool>());
  auto answer = Json::array();
  for (const bool is_answer : rendered.answer) answer.push_back(is_answer ? 1 : 0);
  return {{"tokens", rendered.tokens}, {"answer", answer}};
}

int run(const std::string& folder, const std::string& what, const std::string& name) {
  const auto tokenizer = std::make_shared<const align::BpeTokenizer>(folder);
  std::unique_ptr<align::ChatTemplate> chat_template;
  if (what == "chat") {
    chat_template = name.empty() ? std::make_unique<align::ChatTemplate>(tokenizer, folder)
                                 : std::make_unique<align::ChatTemplate>(tokenizer, folder, align::chat_format(name));
  }
  for (std::string text; std::getline(std::cin, text);) {
    const auto line = Json::parse(text);
    if (what == "chat") {
      std::cout << chat(*chat_template, line) << "\n";
    } else if (what == "decode") {
      std::cout << decode(*tokenizer, line) << "\n";
    } else {
      std::cout << Json(tokenizer->encode(bytes(line))) << "\n";
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::cerr << "usage: tokenize_lines FOLDER encode|decode|chat [TEMPLATE] < lines\n";
    return 2;
  }
  try {
    return run(argv[1], argv[2], argc > 3 ? argv[3] : "");
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
