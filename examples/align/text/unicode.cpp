#include "text/unicode.hpp"

#include <oniguruma.h>
#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <ogpsa/error.hpp>

namespace align::text {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

unsigned byte_at(std::string_view text, std::size_t at) { return static_cast<unsigned char>(text[at]); }

bool is_continuation(unsigned byte) { return (byte & 0xC0) == 0x80; }

/// Bytes of a character that starts with `first`; 0 when none does.
std::size_t length_of(unsigned first) {
  if (first < 0x80) return 1;
  if (first >= 0xC2 && first <= 0xDF) return 2;
  if (first >= 0xE0 && first <= 0xEF) return 3;
  return first >= 0xF0 && first <= 0xF4 ? 4 : 0;
}

/// Whether a character may go on with `second`: no overlong forms, no surrogates, nothing beyond U+10FFFF.
bool may_follow(unsigned first, unsigned second) {
  switch (first) {
    case 0xE0:
      return second >= 0xA0 && second <= 0xBF;
    case 0xED:
      return second >= 0x80 && second <= 0x9F;
    case 0xF0:
      return second >= 0x90 && second <= 0xBF;
    case 0xF4:
      return second >= 0x80 && second <= 0x8F;
    default:
      return is_continuation(second);
  }
}

struct Beginning {
  std::size_t size;
  bool complete;
};

/// The longest beginning of a character at byte `at`.
Beginning beginning(std::string_view bytes, std::size_t at) {
  const auto first = byte_at(bytes, at);
  const auto length = length_of(first);
  if (length == 0) return {1, false};
  std::size_t size = 1;
  while (size < length && at + size < bytes.size()) {
    const auto next = byte_at(bytes, at + size);
    if (size == 1 ? !may_follow(first, next) : !is_continuation(next)) break;
    ++size;
  }
  return {size, size == length};
}

struct CodeRange {
  char32_t first, last;
};

/// Numbers that are newer than the tables of older utf8proc: those of Unicode 15 to 17.
constexpr CodeRange kNewerNumbers[] = {{0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x11DE0, 0x11DE9},
                                       {0x11F50, 0x11F59}, {0x16130, 0x16139}, {0x16D70, 0x16D79}, {0x16FF4, 0x16FF6},
                                       {0x1CCF0, 0x1CCF9}, {0x1D2C0, 0x1D2D3}, {0x1E4F0, 0x1E4F9}, {0x1E5F1, 0x1E5FA}};

/// Marks that are newer than the tables with which the library tokenizers normalises (Unicode 9): it takes them for
/// letters. A vocabulary was trained on what it made of them, so they are kept out of the normalisation here. So is
/// U+11A7, which utf8proc 2.8 loses after a Hangul syllable.
constexpr CodeRange kNotNormalized[] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},     {0xC3C, 0xC3C},
    {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x11A7, 0x11A7},   {0x1715, 0x1715},   {0x1ABF, 0x1ACE},
    {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27}, {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E},
    {0x11839, 0x1183A}, {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45},
    {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};

constexpr bool before(const CodeRange& a, const CodeRange& b) { return a.last < b.first; }
static_assert(std::is_sorted(std::begin(kNewerNumbers), std::end(kNewerNumbers), before));
static_assert(std::is_sorted(std::begin(kNotNormalized), std::end(kNotNormalized), before));

template <std::size_t kSize>
bool is_in(const CodeRange (&ranges)[kSize], char32_t c) {
  const auto after = std::upper_bound(std::begin(ranges), std::end(ranges), c,
                                      [](char32_t value, const CodeRange& range) { return value < range.first; });
  return after != std::begin(ranges) && c <= std::prev(after)->last;
}

void append_nfc(std::string_view text, std::string& result) {
  utf8proc_uint8_t* normalized = nullptr;
  const auto size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &normalized, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(normalized, &std::free);
  if (size < 0) {
    throw ogpsa::InvalidArgument("a text of " + std::to_string(text.size()) + " bytes cannot be normalised to NFC (" +
                                 utf8proc_errmsg(size) + "); split it");
  }
  result.append(reinterpret_cast<const char*>(normalized), static_cast<std::size_t>(size));
}

bool is_python_space(char32_t c) { return is_space(c) || (c >= 0x1C && c <= 0x1F); }

}  // namespace

CodePoint code_point(std::string_view text, std::size_t at) {
  const auto first = byte_at(text, at);
  const auto size = std::max<std::size_t>(1, length_of(first));
  if (size == 1) return {first, 1};
  auto value = static_cast<char32_t>(first & (0x7Fu >> size));
  for (std::size_t i = 1; i < size; ++i) value = (value << 6) | (byte_at(text, at + i) & 0x3F);
  return {value, size};
}

CodePoint code_point_before(std::string_view text, std::size_t end) {
  auto begin = end - 1;
  while (begin > 0 && is_continuation(byte_at(text, begin))) --begin;
  return code_point(text, begin);
}

std::string valid_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  for (std::size_t at = 0; at < bytes.size();) {
    const auto [size, complete] = beginning(bytes, at);
    text += complete ? bytes.substr(at, size) : kReplacement;
    at += size;
  }
  return text;
}

std::string to_nfc(std::string_view text) {
  // No character below U+0300 (in UTF-8: 0xCC 0x80) changes or combines with the one before.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCC; })) {
    return std::string(text);
  }
  std::string result;
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    const auto [value, size] = code_point(text, at);
    if (is_in(kNotNormalized, value)) {
      append_nfc(text.substr(done, at - done), result);
      result += text.substr(at, size);
      done = at + size;
    }
    at += size;
  }
  append_nfc(text.substr(done), result);
  return result;
}

bool is_number(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  if (category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO) {
    return true;
  }
  return is_in(kNewerNumbers, c);
}

bool is_word(char32_t c) {
  const bool joiner = c == 0x200C || c == 0x200D;  // a word character in Rust, but not in Oniguruma
  return joiner || ONIGENC_IS_CODE_WORD(ONIG_ENCODING_UTF8, static_cast<OnigCodePoint>(c));
}

bool is_space(char32_t c) { return ONIGENC_IS_CODE_SPACE(ONIG_ENCODING_UTF8, static_cast<OnigCodePoint>(c)); }

std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    const auto first = code_point(text, 0);
    if (!is_python_space(first.value)) break;
    text.remove_prefix(first.size);
  }
  while (!text.empty()) {
    const auto last = code_point_before(text, text.size());
    if (!is_python_space(last.value)) break;
    text.remove_suffix(last.size);
  }
  return text;
}

}  // namespace align::text
