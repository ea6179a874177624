#pragma once

#include <filesystem>
#include <memory>

#include "text/tokenizer.hpp"

namespace align {

/// The byte-level BPE tokenizer of a tokenizer.json, as Llama 3, Qwen2.5 and SmolLM2 have it. Its ids are those of the
/// Python library tokenizers, but for digits that Unicode has had since version 15: older releases of Oniguruma do not
/// know them. As in transformers, truncation and padding that the file asks for are not done.
class BpeTokenizer : public Tokenizer {
 public:
  /// `path` is a tokenizer.json or its folder.
  /// \throws ogpsa::FileError when it cannot be read, is damaged, or asks for something that is not supported; the
  /// message names the field and its value
  explicit BpeTokenizer(const std::filesystem::path& path);
  ~BpeTokenizer() override;

  std::int64_t size() const override;
  /// What is not UTF-8 is taken as U+FFFD, one for each longest beginning of a character, as Python decodes it.
  /// \throws ogpsa::InvalidArgument for a text that is too long for the regular expressions
  Tokens encode(std::string_view text) const override;
  /// Ids that belong to no token are left out, and bytes that are no UTF-8 become U+FFFD.
  std::string decode(std::span<const std::int64_t> tokens, bool skip_special) const override;
  /// A byte-level token is written in its letters: "Ġthe" for " the".
  std::optional<std::int64_t> id(std::string_view token) const override;
  /// What the post-processor puts before a text.
  std::optional<std::int64_t> bos() const override;

 private:
  struct Parts;

  std::unique_ptr<const Parts> parts_;
};

}  // namespace align
