#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.hpp"

namespace align::text {

/// A text in pieces; between them, text may have been removed.
struct Pieces {
  std::string text;
  std::vector<Range> ranges;
};

/// Cuts a text where no token may reach across: the field pre_tokenizer of a tokenizer.json.
class PreTokenizer {
 public:
  /// `where` is the file and field, for messages.
  /// \throws ogpsa::FileError naming the field that is damaged or not known, or when the pieces would not go to the
  /// model as bytes (ByteLevel has to come last)
  PreTokenizer(const nlohmann::json& json, const std::string& where);
  ~PreTokenizer();
  PreTokenizer(PreTokenizer&&) noexcept;

  /// The pieces of a valid UTF-8 text; none is empty. \throws ogpsa::InvalidArgument as Regex::find_all
  Pieces split(std::string_view text) const;

  /// One of the cuts; they follow one after the other.
  struct Step {
    virtual ~Step() = default;
    virtual void apply(Pieces& pieces) const = 0;
  };

 private:
  std::vector<std::unique_ptr<const Step>> steps_;
};

}  // namespace align::text
