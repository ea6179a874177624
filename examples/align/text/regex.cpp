#include "text/regex.hpp"

#include <oniguruma.h>

#include <mutex>
#include <ogpsa/error.hpp>

#include "text/unicode.hpp"

namespace align::text {

namespace {

const OnigUChar* bytes(std::string_view text) { return reinterpret_cast<const OnigUChar*>(text.data()); }

std::string message(int code, OnigErrorInfo* info = nullptr) {
  OnigUChar buffer[ONIG_MAX_ERROR_MESSAGE_LEN];
  const auto size = info == nullptr ? onig_error_code_to_str(buffer, code) : onig_error_code_to_str(buffer, code, info);
  return {reinterpret_cast<const char*>(buffer), static_cast<std::size_t>(size)};
}

void initialize_once() {
  static std::once_flag once;
  std::call_once(once, [] {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
  });
}

struct FreeRegion {
  void operator()(OnigRegion* region) const { onig_region_free(region, /*free_self=*/1); }
};

}  // namespace

struct Regex::Compiled {
  ~Compiled() { onig_free(regex); }
  regex_t* regex = nullptr;
};

Regex::Regex(const std::string& pattern) : compiled_(std::make_unique<Compiled>()) {
  initialize_once();
  OnigErrorInfo info;
  const auto code = onig_new(&compiled_->regex, bytes(pattern), bytes(pattern) + pattern.size(), ONIG_OPTION_NONE,
                             ONIG_ENCODING_UTF8, ONIG_SYNTAX_ONIGURUMA, &info);
  if (code != ONIG_NORMAL) {
    throw ogpsa::InvalidArgument("'" + pattern + "' is not a regular expression (" + message(code, &info) + ")");
  }
}
Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;

std::vector<Range> Regex::find_all(std::string_view text) const {
  const std::unique_ptr<OnigRegion, FreeRegion> region(onig_region_new());
  const auto* const begin = bytes(text);
  const auto* const end = begin + text.size();
  std::vector<Range> matches;
  for (std::size_t at = 0; at <= text.size();) {
    const auto found = onig_search(compiled_->regex, begin, end, begin + at, end, region.get(), ONIG_OPTION_NONE);
    if (found == ONIG_MISMATCH) break;
    if (found < 0) {
      throw ogpsa::InvalidArgument("a text of " + std::to_string(text.size()) +
                                   " bytes cannot be searched for a regular expression (" + message(found) +
                                   "); split it");
    }
    const Range match{static_cast<std::size_t>(region->beg[0]), static_cast<std::size_t>(region->end[0])};
    const bool empty = match.begin == match.end;
    if (empty && !matches.empty() && matches.back().end == match.end) {
      // An empty match where the last one ended counts no more; look one character on.
      at = match.end + (match.end < text.size() ? code_point(text, match.end).size : 1);
      continue;
    }
    matches.push_back(match);
    at = match.end;
  }
  return matches;
}

}  // namespace align::text
