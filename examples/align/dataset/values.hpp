#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "dataset/file.hpp"
#include "dataset/records.hpp"

/// \file
/// Access to the values of a row that says what is wrong with them. A null counts as missing: tables that were
/// written as JSON have it in every empty cell.

namespace align::dataset {

/// Thrown within the readers: the row is broken.
class BadValue : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Thrown within the readers: the row is sound, but not for this use. The message is one of few, since they are
/// counted.
class Dropped : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

inline bool has(const Json& row, const char* key) {
  const auto found = row.find(key);
  return found != row.end() && !found->is_null();
}
inline bool has_text(const Json& row, const char* key) { return has(row, key) && row[key].is_string(); }
inline bool has_list(const Json& row, const char* key) { return has(row, key) && row[key].is_array(); }
inline bool has_object(const Json& row, const char* key) { return has(row, key) && row[key].is_object(); }

/// \param what  for the message, such as "'output'"
inline const std::string& as_text(const Json& value, const std::string& what) {
  if (!value.is_string()) throw BadValue(what + " is " + (value.is_null() ? "missing" : "not text"));
  const auto& text = value.get_ref<const std::string&>();
  if (text.find('\0') != text.npos) throw BadValue(what + " holds a NUL character");
  return text;
}

inline std::string quoted(const char* key) { return "'" + std::string(key) + "'"; }

inline const Json& value(const Json& row, const char* key) {
  if (!has(row, key)) throw BadValue("no " + quoted(key));
  return row[key];
}
inline const std::string& text(const Json& row, const char* key) { return as_text(value(row, key), quoted(key)); }
inline const Json& list(const Json& row, const char* key) {
  if (!value(row, key).is_array()) throw BadValue(quoted(key) + " is not a list");
  return row[key];
}

/// Text with something in it.
inline const std::string& filled_text(const Json& row, const char* key) {
  const auto& result = text(row, key);
  if (is_blank(result)) throw BadValue(quoted(key) + " is empty");
  return result;
}
/// Empty when it is missing.
inline std::string optional_text(const Json& row, const char* key) { return has(row, key) ? text(row, key) : ""; }

/// A question with its answer, and not with choices of which the answer names one.
inline bool is_question(const Json& row) {
  return has_text(row, "question") && has_text(row, "answer") && !has(row, "choices") && !has(row, "A");
}

}  // namespace align::dataset
