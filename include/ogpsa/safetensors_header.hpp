#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ogpsa/diagnostics.hpp"
#include "ogpsa/error.hpp"

/// \file
/// The header of a safetensors file: a JSON object that names each tensor, its data type, shape and place.

namespace ogpsa {

/// One tensor of a safetensors file: C order, little endian, at [begin, end) of the data that follows the header.
struct SafetensorsEntry {
  std::string dtype;  ///< F32, F64, BF16, F16, I64 ...
  std::vector<std::uint64_t> shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::map<std::string, SafetensorsEntry> tensors;
};

namespace detail {

/// Bytes of one element, or 0 for a data type that is not known.
inline std::uint64_t element_bytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E4M3" || dtype == "F8_E5M2") return 1;
  return 0;
}

/// Reads the subset of JSON that a safetensors header may hold: objects, strings, arrays of whole numbers.
class HeaderParser {
 public:
  explicit HeaderParser(std::string_view text) : text_(text) {}

  SafetensorsHeader parse() {
    SafetensorsHeader header;
    object([&](const std::string& name) {
      if (name == "__metadata__") {
        object([&](const std::string& key) {
          if (!header.metadata.emplace(key, string()).second) fail("metadata '" + key + "' stands twice");
        });
      } else if (!header.tensors.emplace(name, entry()).second) {
        fail("tensor '" + name + "' stands twice");
      }
    });
    skip_space();
    if (at_ != text_.size()) fail("text after the closing brace");
    return header;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw FileError(detail::text({"safetensors header, byte ", at_, ": ", what}));
  }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) != std::string_view::npos) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(std::string("expected '") + c + "'");
  }

  template <class F>
  void object(F&& member) {
    expect('{');
    if (take('}')) return;
    do {
      const std::string key = string();
      expect(':');
      member(key);
    } while (take(','));
    expect('}');
  }

  SafetensorsEntry entry() {
    SafetensorsEntry e;
    bool has_dtype = false, has_shape = false, has_offsets = false;
    object([&](const std::string& key) {
      if (key == "dtype") {
        e.dtype = string();
        has_dtype = true;
      } else if (key == "shape") {
        e.shape = numbers();
        has_shape = true;
      } else if (key == "data_offsets") {
        const auto offsets = numbers();
        if (offsets.size() != 2) fail("data_offsets must be two numbers");
        e.begin = offsets[0];
        e.end = offsets[1];
        has_offsets = true;
      } else {
        fail("unknown field '" + key + "'");
      }
    });
    if (!has_dtype || !has_shape || !has_offsets) fail("a tensor needs dtype, shape and data_offsets");
    return e;
  }

  std::vector<std::uint64_t> numbers() {
    std::vector<std::uint64_t> result;
    expect('[');
    if (take(']')) return result;
    do {
      result.push_back(number());
    } while (take(','));
    expect(']');
    return result;
  }

  std::uint64_t number() {
    skip_space();
    const std::size_t first = at_;
    std::uint64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      const auto digit = static_cast<std::uint64_t>(text_[at_] - '0');
      if (value > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) fail("number too large");
      value = 10 * value + digit;
      ++at_;
    }
    if (at_ == first) fail("expected a whole number");
    return value;
  }

  std::string string() {
    expect('"');
    std::string result;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (static_cast<unsigned char>(text_[at_]) < 0x20) fail("control character in a string");
      if (text_[at_] != '\\') {
        result += text_[at_++];
        continue;
      }
      ++at_;
      append_escape(result);
    }
    if (at_ >= text_.size()) fail("a string does not end");
    ++at_;
    return result;
  }

  void append_escape(std::string& result) {
    if (at_ >= text_.size()) fail("a string does not end");
    const char c = text_[at_++];
    static constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
    if (const auto i = from.find(c); i != std::string_view::npos) {
      result += to[i];
      return;
    }
    if (c != 'u') fail(std::string("unknown escape \\") + c);
    std::uint32_t code = hex4();
    if (code >= 0xd800 && code < 0xdc00) {
      if (text_.substr(at_, 2) != "\\u") fail("half of a surrogate pair");
      at_ += 2;
      const std::uint32_t low = hex4();
      if (low < 0xdc00 || low > 0xdfff) fail("half of a surrogate pair");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    } else if (code >= 0xdc00 && code < 0xe000) {
      fail("half of a surrogate pair");
    }
    append_utf8(result, code);
  }

  std::uint32_t hex4() {
    std::uint32_t value = 0;
    for (int i = 0; i < 4; ++i) {
      const char c = at_ < text_.size() ? text_[at_++] : ' ';
      static constexpr std::string_view digits = "0123456789abcdefABCDEF";
      const auto d = digits.find(c);
      if (d == std::string_view::npos) fail("\\u needs four hexadecimal digits");
      value = 16 * value + static_cast<std::uint32_t>(d < 16 ? d : d - 6);
    }
    return value;
  }

  static void append_utf8(std::string& s, std::uint32_t code) {
    const auto byte = [&](std::uint32_t b) { s += static_cast<char>(b); };
    if (code < 0x80) {
      byte(code);
    } else if (code < 0x800) {
      byte(0xc0 | (code >> 6));
      byte(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      byte(0xe0 | (code >> 12));
      byte(0x80 | ((code >> 6) & 0x3f));
      byte(0x80 | (code & 0x3f));
    } else {
      byte(0xf0 | (code >> 18));
      byte(0x80 | ((code >> 12) & 0x3f));
      byte(0x80 | ((code >> 6) & 0x3f));
      byte(0x80 | (code & 0x3f));
    }
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

/// Checks each tensor against its shape, and that they fill the data exactly. \throws FileError naming the tensor.
inline void check_header(const SafetensorsHeader& header, std::uint64_t data_bytes) {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> spans;
  for (const auto& [name, e] : header.tensors) {
    const auto fail = [&, &name = name](const std::string& what) {
      throw FileError(detail::text({"safetensors tensor '", name, "': ", what}));
    };
    std::uint64_t bytes = element_bytes(e.dtype);
    if (bytes == 0) fail("unknown dtype '" + e.dtype + "'");
    for (const auto d : e.shape) {
      if (d != 0 && bytes > std::numeric_limits<std::uint64_t>::max() / d) fail("its size overflows");
      bytes *= d;
    }
    if (e.begin > e.end || e.end > data_bytes) fail("lies outside the file (is it cut short?)");
    if (e.end - e.begin != bytes) fail("shape and data_offsets disagree");
    if (bytes > 0) spans.emplace_back(e.begin, e.end);
  }
  std::sort(spans.begin(), spans.end());
  std::uint64_t at = 0;
  for (const auto& [begin, end] : spans) {
    if (begin != at) throw FileError(detail::text({"safetensors tensors overlap or leave a gap at data byte ", at}));
    at = end;
  }
  if (at != data_bytes) throw FileError(detail::text({"safetensors file has ", data_bytes - at, " bytes too many"}));
}

inline std::string header_text(const SafetensorsHeader& header) {
  std::string text = "{\"__metadata__\":{";
  const char* comma = "";
  for (const auto& [key, value] : header.metadata) {
    text += comma + json_string(key) + ":" + json_string(value);
    comma = ",";
  }
  text += "}";
  for (const auto& [name, e] : header.tensors) {
    text += "," + json_string(name) + ":{\"dtype\":" + json_string(e.dtype) + ",\"shape\":[";
    for (std::size_t i = 0; i < e.shape.size(); ++i) text += (i > 0 ? "," : "") + std::to_string(e.shape[i]);
    text += "],\"data_offsets\":[" + std::to_string(e.begin) + "," + std::to_string(e.end) + "]}";
  }
  text += "}";
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts 8-byte aligned
  return text;
}

}  // namespace detail
}  // namespace ogpsa
