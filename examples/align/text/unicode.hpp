#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// \file
/// What the tokenizer has to know about Unicode. Texts are UTF-8, and all but valid_utf8 expect it to be valid.

namespace align::text {

struct CodePoint {
  char32_t value;
  std::size_t size;  ///< in bytes
};

/// The code point that starts at byte `at` of a valid text.
CodePoint code_point(std::string_view text, std::size_t at);
/// The code point that ends before byte `end` > 0 of a valid text.
CodePoint code_point_before(std::string_view text, std::size_t end);

/// Replaces what is not UTF-8 by U+FFFD, one for each longest beginning of a character, as Python does.
std::string valid_utf8(std::string_view bytes);

/// \throws ogpsa::InvalidArgument when the text is too long for the Unicode library
std::string to_nfc(std::string_view text);

/// General category N, as Rust's char::is_numeric.
bool is_number(char32_t c);
/// What \w and \s match in Rust's regular expressions.
bool is_word(char32_t c);
bool is_space(char32_t c);

/// Without white space at both ends, as Python's str.strip().
std::string_view strip(std::string_view text);

}  // namespace align::text
