#pragma once

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>
#include <string>
#include <string_view>

namespace align::text {

/// An object of a JSON file whose fields are read one by one; every complaint names the file, the field and its value.
/// It refers to the JSON, which has to outlive it.
class JsonObject {
 public:
  /// `where` is the file and, below the top, the field. \throws ogpsa::FileError when the value is no object
  JsonObject(const nlohmann::json& value, std::string where) : value_(value), where_(std::move(where)) {
    if (!value.is_object()) complain(where_, value, "an object is expected");
  }

  /// \throws ogpsa::FileError naming the value of the field, if it is there, and what is wrong with it
  [[noreturn]] void fail(std::string_view field, std::string_view what) const {
    const auto found = value_.find(field);
    if (found == value_.end()) throw ogpsa::FileError(path(field) + " is missing; " + std::string(what));
    complain(path(field), *found, what);
  }

  /// A field that is neither missing nor null.
  bool has(std::string_view field) const {
    const auto found = value_.find(field);
    return found != value_.end() && !found->is_null();
  }
  /// \throws ogpsa::FileError when it is missing
  const nlohmann::json& at(std::string_view field) const {
    const auto found = value_.find(field);
    if (found == value_.end()) fail(field, "the file is damaged or of another kind");
    return *found;
  }
  JsonObject object(std::string_view field) const { return {at(field), path(field)}; }
  const nlohmann::json& array(std::string_view field) const {
    if (!at(field).is_array()) fail(field, "a list is expected");
    return at(field);
  }
  const std::string& text(std::string_view field) const {
    if (!at(field).is_string()) fail(field, "a text is expected");
    return at(field).get_ref<const std::string&>();
  }
  bool flag(std::string_view field, bool otherwise) const {
    if (!has(field)) return otherwise;
    if (!at(field).is_boolean()) fail(field, "true or false is expected");
    return at(field).get<bool>();
  }
  /// A token id: at least 0, and small enough for a list of all tokens.
  std::int64_t id(std::string_view field) const {
    if (!is_id(at(field))) fail(field, "a token id is expected");
    return at(field).get<std::int64_t>();
  }
  static bool is_id(const nlohmann::json& value) {
    return value.is_number_unsigned() && value.get<std::uint64_t>() < (1u << 24);
  }

  /// What the file says and this program does not know would change the tokens. \throws ogpsa::FileError
  void allow_only(std::initializer_list<std::string_view> fields) const {
    for (const auto& [name, value] : value_.items()) {
      if (std::find(fields.begin(), fields.end(), name) == fields.end()) fail(name, "this field is not known");
    }
  }

  /// The full name of a field, for messages and objects below.
  std::string path(std::string_view field) const {
    return where_ + (where_.back() == ' ' ? "" : ".") + std::string(field);
  }

 private:
  [[noreturn]] static void complain(const std::string& where, const nlohmann::json& value, std::string_view what) {
    constexpr std::size_t kLongest = 80;
    auto text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
    throw ogpsa::FileError(where + " = " + text + ": " + std::string(what));
  }

  const nlohmann::json& value_;
  std::string where_;
};

}  // namespace align::text
