#include "dataset/reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>

#include "dataset/layouts.hpp"
#include "dataset/values.hpp"

namespace align {
namespace {

using dataset::Json;
using dataset::Layout;

template <class Row>
constexpr const char* kUse = nullptr;
template <>
constexpr const char* kUse<Conversation> = "conversations";
template <>
constexpr const char* kUse<Preference> = "preferences";
template <>
constexpr const char* kUse<MultipleChoice> = "multiple choice";
template <>
constexpr const char* kUse<Question> = "questions";
template <>
constexpr const char* kUse<Prompt> = "prompts";

template <class Row>
std::string known_formats() {
  std::string text;
  for (const auto& name : format_names<Row>()) text += (text.empty() ? "" : ", ") + name;
  return text;
}

template <class Row>
const Layout<Row>* first_fitting(const Json& row) {
  for (const auto& layout : dataset::layouts<Row>()) {
    if (layout.fits(row)) return &layout;
  }
  return nullptr;
}

/// Null for "auto". \throws ogpsa::InvalidArgument
template <class Row>
const Layout<Row>* named_layout(const std::string& format) {
  if (format == "auto") return nullptr;
  for (const auto& layout : dataset::layouts<Row>()) {
    if (layout.name == format) return &layout;
  }
  throw ogpsa::InvalidArgument(
      fmt::format("'{}' is no format of {}; use auto or one of: {}", format, kUse<Row>, known_formats<Row>()));
}

std::string keys(const Json& row) {
  std::string text;
  for (auto member = row.begin(); member != row.end(); ++member) text += (text.empty() ? "" : ", ") + member.key();
  return row.empty() ? "none" : dataset::excerpt(text, 120);
}

/// "1 row", "2 rows".
std::string rows_text(std::size_t count) { return fmt::format("{} row{}", count, count == 1 ? "" : "s"); }

std::string line_text(const Source& source) {
  return fmt::format("{} {}", source.is_line ? "line" : "row", source.number);
}

/// ", 3 bad (first: line 17: no 'output'), 2 dropped (chosen and rejected are the same: 2)"
std::string losses(const std::vector<BadRow>& bad, const std::map<std::string, std::size_t>& dropped) {
  std::string text;
  if (!bad.empty()) {
    text += fmt::format(", {} bad (first: {}: {})", bad.size(), line_text(bad[0].source), bad[0].reason);
  }
  std::size_t count = 0;
  std::string reasons;
  for (const auto& [reason, times] : dropped) {
    reasons += fmt::format("{}{}: {}", reasons.empty() ? "" : "; ", reason, times);
    count += times;
  }
  return count == 0 ? text : text + fmt::format(", {} dropped ({})", count, reasons);
}

/// Takes up the records of one file.
template <class Row>
class Reader {
 public:
  Reader(const std::filesystem::path& path, const ReadOptions& options)
      : options_(options), layout_(named_layout<Row>(options.format)) {
    result_.file = path.string();
  }

  bool is_row(const Json& object) const {
    return layout_ != nullptr ? layout_->fits(object) : first_fitting<Row>(object) != nullptr;
  }

  /// False when there are enough rows.
  bool add(const Source& source, const Json& record, const std::string& error) {
    if (!error.empty()) {
      add_bad(source, error);
    } else if (const auto* layout = layout_ != nullptr ? layout_ : first_fitting<Row>(record)) {
      add_row(source, record, *layout);
    } else {
      add_bad(source, fmt::format("fits no format of {} (its keys: {})", kUse<Row>, keys(record)));
    }
    return options_.limit == 0 || result_.rows.size() < options_.limit;
  }

  /// \throws ogpsa::FileError when there is no row
  Rows<Row> finish() {
    if (result_.rows.empty()) {
      throw ogpsa::FileError(fmt::format("'{}' holds no row that can be read as {}{}; the formats are: {}",
                                         result_.file, kUse<Row>, losses(result_.bad, result_.dropped),
                                         known_formats<Row>()));
    }
    result_.format = layout_->name;
    return std::move(result_);
  }

 private:
  void add_row(const Source& source, const Json& record, const Layout<Row>& layout) {
    try {
      auto row = layout.read(record);
      row.source = source;
      result_.rows.push_back(std::move(row));
    } catch (const dataset::Dropped& dropped) {
      ++result_.dropped[dropped.what()];
    } catch (const dataset::BadValue& error) {
      add_bad(source, error.what());
      return;
    }
    layout_ = &layout;  // the rows of a file agree, so the first sound one settles it
  }

  void add_bad(const Source& source, const std::string& reason) {
    if (options_.on_bad_row == OnBadRow::fail) {
      throw ogpsa::FileError(fmt::format("{}: {}; mend the row, or let bad rows be skipped", source.text(), reason));
    }
    result_.bad.push_back({source, reason});
  }

  const ReadOptions& options_;
  const Layout<Row>* layout_;
  Rows<Row> result_;
};

template <class Row>
Rows<Row> read(const std::filesystem::path& path, const ReadOptions& options) {
  Reader<Row> reader(path, options);
  dataset::for_each_record(path,
                           {.is_row = [&](const Json& object) { return reader.is_row(object); },
                            .may_be_mmlu = std::is_same_v<Row, MultipleChoice>},
                           [&](const Source& source, const Json& record, const std::string& error) {
                             return reader.add(source, record, error);
                           });
  return reader.finish();
}

}  // namespace

Rows<Conversation> read_conversations(const std::filesystem::path& path, const ReadOptions& options) {
  return read<Conversation>(path, options);
}
Rows<Preference> read_preferences(const std::filesystem::path& path, const ReadOptions& options) {
  return read<Preference>(path, options);
}
Rows<MultipleChoice> read_multiple_choice(const std::filesystem::path& path, const ReadOptions& options) {
  return read<MultipleChoice>(path, options);
}
Rows<Question> read_questions(const std::filesystem::path& path, const ReadOptions& options) {
  return read<Question>(path, options);
}
Rows<Prompt> read_prompts(const std::filesystem::path& path, const ReadOptions& options) {
  return read<Prompt>(path, options);
}

template <class Row>
std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const auto& layout : dataset::layouts<Row>()) names.emplace_back(layout.name);
  return names;
}

template <class Row>
std::string account(const Rows<Row>& rows) {
  return fmt::format("{}: {} read as {}{}", rows.file, rows_text(rows.rows.size()), rows.format,
                     losses(rows.bad, rows.dropped));
}

template std::vector<std::string> format_names<Conversation>();
template std::vector<std::string> format_names<Preference>();
template std::vector<std::string> format_names<MultipleChoice>();
template std::vector<std::string> format_names<Question>();
template std::vector<std::string> format_names<Prompt>();
template std::string account(const Rows<Conversation>&);
template std::string account(const Rows<Preference>&);
template std::string account(const Rows<MultipleChoice>&);
template std::string account(const Rows<Question>&);
template std::string account(const Rows<Prompt>&);

}  // namespace align
