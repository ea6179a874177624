#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace align::text {

/// Bytes [begin, end) of a text.
struct Range {
  std::size_t begin, end;
};

/// A regular expression of Oniguruma, the library that the tokenizers of Hugging Face use as well.
class Regex {
 public:
  /// \throws ogpsa::InvalidArgument when the pattern is not one
  explicit Regex(const std::string& pattern);
  ~Regex();
  Regex(Regex&&) noexcept;

  /// All matches in a valid UTF-8 text from the left, none overlapping.
  /// \throws ogpsa::InvalidArgument when the search takes too many steps
  std::vector<Range> find_all(std::string_view text) const;

 private:
  struct Compiled;
  std::unique_ptr<Compiled> compiled_;
};

}  // namespace align::text
