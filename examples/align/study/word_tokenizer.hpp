#pragma once

#include <cstdint>
#include <ogpsa/error.hpp>
#include <sstream>
#include <string>
#include <unordered_map>
#include <vector>

#include "text/tokens.hpp"

namespace align::study {

/// One token per word of a fixed vocabulary; words are separated by spaces.
class WordTokenizer {
 public:
  explicit WordTokenizer(const std::vector<std::string>& vocabulary) {
    for (const char* special : {"<end>", "<user>", "<assistant>"}) add(special);
    for (const auto& word : vocabulary) add(word);
  }

  std::int64_t size() const { return static_cast<std::int64_t>(words_.size()); }
  /// End of turn. It pads as well, as in SmolLM2 and Qwen2.5: whoever masks has to go by position.
  std::int64_t end() const { return 0; }
  std::int64_t padding() const { return end(); }

  /// \throws ogpsa::InvalidArgument for a word that is not in the vocabulary
  Tokens encode(const std::string& text) const {
    Tokens tokens;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      const auto found = ids_.find(word);
      if (found == ids_.end()) {
        throw ogpsa::InvalidArgument("the word '" + word + "' of \"" + text +
                                     "\" is not in the vocabulary; add it to a list in the data folder");
      }
      tokens.push_back(found->second);
    }
    return tokens;
  }
  /// Special tokens are written as they are.
  std::string decode(const Tokens& tokens) const {
    std::string text;
    for (const auto token : tokens) text += (text.empty() ? "" : " ") + words_.at(static_cast<std::size_t>(token));
    return text;
  }

  /// What the model is given before it answers: <user> prompt <assistant>.
  Tokens chat(const std::string& prompt) const {
    Tokens tokens{1};
    for (const auto token : encode(prompt)) tokens.push_back(token);
    tokens.push_back(2);
    return tokens;
  }

 private:
  void add(const std::string& word) {
    if (ids_.emplace(word, size()).second) words_.push_back(word);
  }

  std::vector<std::string> words_;
  std::unordered_map<std::string, std::int64_t> ids_;
};

}  // namespace align::study
