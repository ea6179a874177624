#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "text/bpe_tokenizer.hpp"

/// What the tests of tokenizer and chat templates share. No LibTorch.

namespace align::test {

/// One of fixtures/text, which make_text_fixtures.py made with the Python libraries.
inline nlohmann::json text_fixture(const std::string& name) {
  std::ifstream file(std::filesystem::path(OGPSA_ALIGN_TESTS_DIR) / "fixtures" / "text" / (name + ".json"));
  return nlohmann::json::parse(file);
}

/// The folder of a model, which goes away with this.
class TokenizerFolder {
 public:
  explicit TokenizerFolder(const nlohmann::json& tokenizer) {
    static int count = 0;
    path_ = std::filesystem::temp_directory_path() /
            ("ogpsa_align_text_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
    write("tokenizer.json", tokenizer.dump());
  }
  ~TokenizerFolder() { std::filesystem::remove_all(path_); }
  TokenizerFolder(const TokenizerFolder&) = delete;
  TokenizerFolder& operator=(const TokenizerFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path_ / name, std::ios::binary) << text;
  }

 private:
  std::filesystem::path path_;
};

inline std::shared_ptr<const BpeTokenizer> make_tokenizer(const nlohmann::json& json) {
  return std::make_shared<const BpeTokenizer>(TokenizerFolder(json).path());
}

}  // namespace align::test
