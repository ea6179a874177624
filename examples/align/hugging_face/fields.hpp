#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>
#include <set>
#include <string>
#include <utility>

namespace align {

/// The fields of one JSON object, of which each has to be asked for or declared harmless.
class Fields {
 public:
  Fields(const nlohmann::json& json, std::string where) : json_(json), where_(std::move(where)) {
    if (!json.is_object()) throw ogpsa::InvalidArgument(where_ + " is not a JSON object");
  }

  bool has(const char* name) {
    known_.insert(name);
    return json_.contains(name) && !json_.at(name).is_null();
  }
  template <class T>
  T get(const char* name) {
    if (!has(name)) fail(std::string("has no '") + name + "'");
    try {
      return json_.at(name).get<T>();
    } catch (const nlohmann::json::exception&) {
      fail(std::string("'") + name + "' is " + json_.at(name).dump() + ", which is of the wrong type");
    }
  }
  template <class T>
  T get(const char* name, T otherwise) {
    return has(name) ? get<T>(name) : otherwise;
  }
  const nlohmann::json& at(const char* name) const { return json_.at(name); }
  /// A field for which we do one thing only.
  void require(const char* name, const nlohmann::json& value) {
    if (has(name) && json_.at(name) != value) {
      fail(std::string("'") + name + "' is " + json_.at(name).dump() + "; only " + value.dump() + " is supported");
    }
  }
  void ignore(std::initializer_list<const char*> names) { known_.insert(names.begin(), names.end()); }
  /// Fields that are null, false or empty, whatever they are: what they name is not used.
  void ignore_unused() {
    for (const auto& [name, value] : json_.items()) {
      if (value.is_null() || value == false || value == "" || (value.is_structured() && value.empty()))
        known_.insert(name);
    }
  }
  /// \throws ogpsa::InvalidArgument for a field that is not known: it might change what the model computes
  void finish() const {
    for (const auto& [name, value] : json_.items()) {
      if (known_.count(name) > 0) continue;
      fail("'" + name + "' = " + value.dump() +
           " is not supported; if it does not change what the model computes, take it out");
    }
  }
  [[noreturn]] void fail(const std::string& what) const { throw ogpsa::InvalidArgument(where_ + ": " + what); }

 private:
  const nlohmann::json& json_;
  std::string where_;
  std::set<std::string> known_;
};

}  // namespace align
