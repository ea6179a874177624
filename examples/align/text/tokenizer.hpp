#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "text/tokens.hpp"

namespace align {

/// Text to token ids and back. The members may be called by several threads at once.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// One more than the largest id.
  virtual std::int64_t size() const = 0;
  /// Special tokens that are written out in the text are recognised; none is added, not even bos().
  virtual Tokens encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const std::int64_t> tokens, bool skip_special) const = 0;
  /// The id of one token as the vocabulary writes it, if there is such a token.
  virtual std::optional<std::int64_t> id(std::string_view token) const = 0;
  /// The token that starts every text of a model without chat turns, if it was trained with one.
  virtual std::optional<std::int64_t> bos() const { return std::nullopt; }
};

}  // namespace align
