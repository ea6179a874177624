#include "text/added_tokens.hpp"

#include <algorithm>

#include "text/unicode.hpp"

namespace align::text {

namespace {

bool is_single_word(std::string_view text, const Range& range) {
  return (range.begin == 0 || !is_word(code_point_before(text, range.begin).value)) &&
         (range.end == text.size() || !is_word(code_point(text, range.end).value));
}

/// Where the white space before `at` begins, but not before `limit`.
std::size_t space_begin(std::string_view text, std::size_t at, std::size_t limit) {
  while (at > limit) {
    const auto [value, size] = code_point_before(text, at);
    if (!is_space(value)) break;
    at -= size;
  }
  return std::max(at, limit);
}

std::size_t space_end(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    const auto [value, size] = code_point(text, at);
    if (!is_space(value)) break;
    at += size;
  }
  return at;
}

}  // namespace

void AddedTokenFinder::add(const std::string& pattern, const AddedToken& token) {
  std::size_t node = 0;
  for (const char c : pattern) {
    const auto [next, added] = nodes_[node].next.try_emplace(c, nodes_.size());
    node = next->second;
    if (added) nodes_.emplace_back();
  }
  if (node == 0 || nodes_[node].token) return;
  nodes_[node].token = tokens_.size();
  tokens_.push_back(token);
}

std::optional<AddedTokenFinder::Match> AddedTokenFinder::match(std::string_view text, std::size_t at) const {
  std::optional<Match> longest;
  std::size_t node = 0;
  for (; at < text.size(); ++at) {
    const auto next = nodes_[node].next.find(text[at]);
    if (next == nodes_[node].next.end()) break;
    node = next->second;
    if (nodes_[node].token) longest = Match{at + 1, *nodes_[node].token};
  }
  return longest;
}

std::vector<Segment> AddedTokenFinder::split(std::string_view text) const {
  std::vector<Segment> segments;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto found = match(text, at);
    if (!found) {
      ++at;
      continue;
    }
    const auto& token = tokens_[found->token];
    Range range{at, found->end};
    at = found->end;
    if (token.single_word && !is_single_word(text, range)) continue;
    if (token.lstrip) range.begin = space_begin(text, range.begin, done);
    if (token.rstrip) range.end = space_end(text, range.end);
    if (done < range.begin) segments.push_back({{done, range.begin}, std::nullopt});
    segments.push_back({range, token.id});
    done = range.end;
  }
  if (done < text.size()) segments.push_back({{done, text.size()}, std::nullopt});
  return segments;
}

}  // namespace align::text
