#include "text/pre_tokenizer.hpp"

#include <map>
#include <ogpsa/error.hpp>

#include "text/json_object.hpp"
#include "text/unicode.hpp"

namespace align::text {

namespace {

using Step = PreTokenizer::Step;
using Steps = std::vector<std::unique_ptr<const Step>>;

/// Part of a text that is a delimiter or stands between two.
struct Part {
  Range range;
  bool delimiter;
};

/// What becomes of the delimiters.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// The whole text as delimiters and what is between them.
std::vector<Part> parts_of(std::size_t size, const std::vector<Range>& delimiters) {
  std::vector<Part> parts;
  std::size_t at = 0;
  for (const auto& range : delimiters) {
    if (at != range.begin) parts.push_back({{at, range.begin}, false});
    parts.push_back({range, true});
    at = range.end;
  }
  if (at != size) parts.push_back({{at, size}, false});
  return parts;
}

/// Whether `part` is joined to the one before it. Of two delimiters in a row only one goes with its neighbour.
bool joins(const Part* before, const Part& part, Behavior behavior) {
  switch (behavior) {
    case Behavior::contiguous:
      return before != nullptr && before->delimiter == part.delimiter;
    case Behavior::merged_with_previous:
      return before != nullptr && part.delimiter && !before->delimiter;
    case Behavior::merged_with_next:
      return before != nullptr && before->delimiter && !part.delimiter;
    default:
      return false;
  }
}

void append_pieces(const std::vector<Part>& parts, Behavior behavior, std::size_t offset, std::vector<Range>& pieces) {
  const auto first = pieces.size();
  const Part* before = nullptr;
  for (const auto& part : parts) {
    if (!(behavior == Behavior::removed && part.delimiter)) {
      const Range range{part.range.begin + offset, part.range.end + offset};
      if (joins(before, part, behavior) && pieces.size() > first) {
        pieces.back().end = range.end;
      } else {
        pieces.push_back(range);
      }
    }
    before = &part;
  }
}

/// Cuts every piece at the delimiters that a derived class finds in it.
class Split : public Step {
 public:
  Split(Behavior behavior, bool invert) : behavior_(behavior), invert_(invert) {}

  void apply(Pieces& pieces) const override {
    std::vector<Range> result;
    result.reserve(pieces.ranges.size() * 2);
    for (const auto& range : pieces.ranges) {
      const auto text = std::string_view(pieces.text).substr(range.begin, range.end - range.begin);
      auto parts = parts_of(text.size(), delimiters(text));
      if (invert_) {
        for (auto& part : parts) part.delimiter = !part.delimiter;
      }
      append_pieces(parts, behavior_, range.begin, result);
    }
    std::erase_if(result, [](const Range& range) { return range.begin == range.end; });
    pieces.ranges = std::move(result);
  }

 private:
  virtual std::vector<Range> delimiters(std::string_view text) const = 0;

  Behavior behavior_;
  bool invert_;
};

class RegexSplit : public Split {
 public:
  RegexSplit(Regex regex, Behavior behavior, bool invert) : Split(behavior, invert), regex_(std::move(regex)) {}

 private:
  std::vector<Range> delimiters(std::string_view text) const override { return regex_.find_all(text); }

  Regex regex_;
};

class StringSplit : public Split {
 public:
  StringSplit(std::string text, Behavior behavior, bool invert) : Split(behavior, invert), text_(std::move(text)) {}

 private:
  std::vector<Range> delimiters(std::string_view text) const override {
    std::vector<Range> found;
    for (auto at = text.find(text_); at != text.npos; at = text.find(text_, at + text_.size())) {
      found.push_back({at, at + text_.size()});
    }
    return found;
  }

  std::string text_;
};

class Digits : public Split {
 public:
  explicit Digits(bool individual) : Split(individual ? Behavior::isolated : Behavior::contiguous, /*invert=*/false) {}

 private:
  std::vector<Range> delimiters(std::string_view text) const override {
    std::vector<Range> found;
    for (std::size_t at = 0; at < text.size();) {
      const auto [value, size] = code_point(text, at);
      if (is_number(value)) found.push_back({at, at + size});
      at += size;
    }
    return found;
  }
};

/// Puts a space before every piece that does not start with one.
class PrefixSpace : public Step {
 public:
  void apply(Pieces& pieces) const override {
    Pieces result;
    for (const auto& range : pieces.ranges) {
      const auto begin = result.text.size();
      if (pieces.text[range.begin] != ' ') result.text += ' ';
      result.text.append(pieces.text, range.begin, range.end - range.begin);
      result.ranges.push_back({begin, result.text.size()});
    }
    pieces = std::move(result);
  }
};

/// GPT-2's cut into words, each with the space before it.
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Behavior behavior_of(const JsonObject& split) {
  static const std::map<std::string, Behavior> behaviors = {{"Removed", Behavior::removed},
                                                            {"Isolated", Behavior::isolated},
                                                            {"MergedWithPrevious", Behavior::merged_with_previous},
                                                            {"MergedWithNext", Behavior::merged_with_next},
                                                            {"Contiguous", Behavior::contiguous}};
  const auto found = behaviors.find(split.text("behavior"));
  if (found == behaviors.end()) split.fail("behavior", "this behavior is not known");
  return found->second;
}

std::unique_ptr<const Step> make_split(const JsonObject& split) {
  split.allow_only({"type", "pattern", "behavior", "invert"});
  const auto behavior = behavior_of(split);
  const auto invert = split.flag("invert", false);
  const auto pattern = split.object("pattern");
  pattern.allow_only({"Regex", "String"});
  const char* kind = pattern.has("Regex") ? "Regex" : "String";
  const auto& text = pattern.text(kind);
  if (text.empty()) pattern.fail(kind, "a pattern that is not empty is expected");
  if (pattern.has("String")) return std::make_unique<StringSplit>(text, behavior, invert);
  try {
    return std::make_unique<RegexSplit>(Regex(text), behavior, invert);
  } catch (const ogpsa::InvalidArgument& error) {
    pattern.fail(kind, error.what());
  }
}

void append_byte_level(const JsonObject& json, Steps& steps) {
  json.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
  if (json.flag("add_prefix_space", true)) steps.push_back(std::make_unique<PrefixSpace>());
  if (json.flag("use_regex", true)) {
    steps.push_back(std::make_unique<RegexSplit>(Regex(kByteLevelPattern), Behavior::isolated, /*invert=*/false));
  }
}

/// \return whether ByteLevel was the last step
bool append_steps(const JsonObject& json, Steps& steps) {
  const auto& type = json.text("type");
  if (type == "ByteLevel") {
    append_byte_level(json, steps);
    return true;
  }
  if (type == "Split") {
    steps.push_back(make_split(json));
  } else if (type == "Digits") {
    json.allow_only({"type", "individual_digits"});
    steps.push_back(std::make_unique<Digits>(json.flag("individual_digits", false)));
  } else if (type == "Sequence") {
    json.allow_only({"type", "pretokenizers"});
    bool byte_level = false;
    std::size_t index = 0;
    for (const auto& part : json.array("pretokenizers")) {
      if (byte_level) json.fail("pretokenizers", "nothing may follow ByteLevel here");
      byte_level = append_steps({part, json.path("pretokenizers") + "[" + std::to_string(index++) + "]"}, steps);
    }
    return byte_level;
  } else {
    json.fail("type", "this pre-tokenizer is not known; ByteLevel, Split, Digits and Sequence are");
  }
  return false;
}

}  // namespace

PreTokenizer::PreTokenizer(const nlohmann::json& json, const std::string& where) {
  const JsonObject object(json, where);
  if (!append_steps(object, steps_)) object.fail("type", "the last pre-tokenizer has to be ByteLevel");
}
PreTokenizer::~PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;

Pieces PreTokenizer::split(std::string_view text) const {
  Pieces pieces{std::string(text), {}};
  if (!text.empty()) pieces.ranges.push_back({0, text.size()});
  for (const auto& step : steps_) step->apply(pieces);
  return pieces;
}

}  // namespace align::text
