#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/regex.hpp"

namespace align::text {

/// A token that is found in the text before anything else is done with it.
struct AddedToken {
  std::int64_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  ///< only where no letter, digit or mark touches it
  bool lstrip = false;       ///< takes the white space before it
  bool rstrip = false;       ///< takes the white space after it
  bool normalized = false;   ///< is looked for after normalisation
};

/// A part of a text: an added token, or what is between two.
struct Segment {
  Range range;
  std::optional<std::int64_t> id;
};

/// Finds added tokens, from the left, the longest first.
class AddedTokenFinder {
 public:
  /// Looks for `pattern`, which need not be the token's content. Of equal patterns the first counts.
  void add(const std::string& pattern, const AddedToken& token);

  /// The whole text as segments; none if it is empty.
  std::vector<Segment> split(std::string_view text) const;

 private:
  struct Node {
    std::unordered_map<char, std::size_t> next;
    std::optional<std::size_t> token;
  };
  struct Match {
    std::size_t end;
    std::size_t token;
  };

  std::optional<Match> match(std::string_view text, std::size_t at) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::vector<AddedToken> tokens_;
};

}  // namespace align::text
