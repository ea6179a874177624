#include "dataset/records.hpp"

#include <nlohmann/json.hpp>
#include <ogpsa/error.hpp>
#include <set>

#include "dataset/csv.hpp"
#include "dataset/file.hpp"

namespace align::dataset {
namespace {

/// "at column 5: syntax error while parsing value - invalid literal", without the internals of the JSON library.
std::string reason(const Json::exception& error, bool with_line) {
  std::string text = error.what();
  if (const auto end = text.find("] "); end != text.npos) text.erase(0, end + 2);
  const auto place = text.find(with_line ? "at line " : "column ");
  if (text.starts_with("parse error") && place != text.npos) text = (with_line ? "" : "at ") + text.substr(place);
  return excerpt(text, 160);
}

bool is_object_line(const std::string& line) { return trimmed(line).starts_with('{') && Json::accept(line); }

/// The first two lines with anything in them, which are put back.
struct Beginning {
  std::string first, second;

  explicit Beginning(TextFile& file) {
    std::vector<std::string> lines;
    for (std::string line; second.empty() && file.next_line(line); lines.push_back(line)) {
      if (!is_blank(line)) (first.empty() ? first : second) = line;
    }
    for (; !lines.empty(); lines.pop_back()) file.put_back(std::move(lines.back()));
  }
  char start() const { return first.empty() ? '\0' : trimmed(first).front(); }
};

enum class Container { document, lines, csv };

/// By the content, and by the name where the content leaves it open. \throws ogpsa::FileError for an empty file
Container container(const std::filesystem::path& path, TextFile& file) {
  const Beginning beginning(file);
  if (beginning.first.empty()) throw ogpsa::FileError("'" + path.string() + "' is empty");
  auto name = path.filename();
  if (name.extension() == ".gz") name = name.stem();
  const auto extension = name.extension();
  const bool named_lines = extension == ".jsonl" || extension == ".ndjson";
  const bool json = beginning.start() == '{' || beginning.start() == '[';
  if (extension == ".csv" || (!json && !named_lines && extension != ".json")) return Container::csv;
  if (!json) return named_lines ? Container::lines : Container::document;
  if (is_object_line(beginning.first)) {
    return named_lines || !beginning.second.empty() ? Container::lines : Container::document;
  }
  // A first line that is broken does not make a document of a file of lines; "[" before a lone object does.
  if (trimmed(beginning.first) != "[" && is_object_line(beginning.second)) return Container::lines;
  return named_lines && beginning.start() == '{' ? Container::lines : Container::document;
}

std::string whole(TextFile& file) {
  std::string text;
  for (std::string line; file.next_line(line); text += '\n') text += line;
  return text;
}

Json parse_document(const std::string& name, TextFile& file) {
  try {
    return Json::parse(whole(file));
  } catch (const Json::exception& error) {
    throw ogpsa::FileError("'" + name + "' is not JSON: " + reason(error, true) +
                           "; name it .jsonl if each line is an object");
  }
}

/// The rows of a document: itself if it is an array, otherwise its one member that is an array of objects.
const Json& list_of_rows(const std::string& name, const Json& document) {
  if (document.is_array()) return document;
  const Json* found = nullptr;
  for (const auto& member : document) {
    if (!member.is_array() || member.empty() || !member.front().is_object()) continue;
    if (found != nullptr) throw ogpsa::FileError("'" + name + "' holds several lists of rows; keep one in a file");
    found = &member;
  }
  if (found == nullptr) throw ogpsa::FileError("'" + name + "' is neither a row of a known format nor a list of rows");
  return *found;
}

void for_each_element(const std::string& name, TextFile& file, const RecordOptions& options,
                      const OnRecord& on_record) {
  const auto document = parse_document(name, file);
  if (!document.is_structured()) throw ogpsa::FileError("'" + name + "' holds a single value, not rows");
  if (document.is_object() && options.is_row(document)) {
    on_record({name, 1, false}, document, "");
    return;
  }
  std::size_t number = 0;
  for (const auto& row : list_of_rows(name, document)) {
    if (!on_record({name, ++number, false}, row, row.is_object() ? "" : "is not an object")) return;
  }
}

void for_each_line(const std::string& name, TextFile& file, const OnRecord& on_record) {
  for (std::string line; file.next_line(line);) {
    if (is_blank(line)) continue;
    Json row;
    std::string error;
    try {
      row = Json::parse(line);
      if (!row.is_object()) error = "is not an object";
    } catch (const Json::exception& e) {
      error = "is not JSON: " + reason(e, false);
    }
    if (!on_record({name, file.line_number(), true}, row, error)) return;
  }
}

/// question, A, B, ..., answer: for a file whose first record ends with the letter of one of its choices.
std::vector<std::string> mmlu_header(const std::vector<std::string>& first) {
  const auto choices = first.size() < 4 ? 0 : first.size() - 2;
  const auto answer = trimmed(first.back());
  if (choices == 0 || choices > 26 || answer.size() != 1) return {};
  if (answer[0] < 'A' || static_cast<std::size_t>(answer[0] - 'A') >= choices) return {};
  std::vector<std::string> header{"question"};
  for (std::size_t i = 0; i < choices; ++i) header.emplace_back(1, static_cast<char>('A' + i));
  header.emplace_back("answer");
  return header;
}

std::vector<std::string> header_of(const std::string& name, const CsvRecord& record) {
  if (!record.error.empty()) throw ogpsa::FileError("the header of '" + name + "': " + record.error);
  std::vector<std::string> header;
  for (const auto& field : record.fields) header.emplace_back(trimmed(field));
  if (header.size() < 2) {
    throw ogpsa::FileError("'" + name +
                           "' is neither JSON, JSON Lines nor a CSV of several columns; it begins with \"" +
                           excerpt(header[0]) + "\"");
  }
  std::set<std::string> names;
  for (const auto& column : header) {
    if (column.empty() || names.insert(column).second) continue;
    throw ogpsa::FileError("the header of '" + name + "' names '" + excerpt(column) +
                           "' twice; the first line has to name the columns");
  }
  return header;
}

void for_each_csv_record(const std::string& name, TextFile& file, const RecordOptions& options,
                         const OnRecord& on_record) {
  CsvRecord record;
  if (!next_record(file, record)) return;
  auto header = options.may_be_mmlu && record.error.empty() ? mmlu_header(record.fields) : std::vector<std::string>{};
  bool more = true;
  if (header.empty()) {
    header = header_of(name, record);
    more = next_record(file, record);
  }
  for (; more; more = next_record(file, record)) {
    if (record.error.empty() && record.fields.size() != header.size()) {
      record.error =
          "has " + std::to_string(record.fields.size()) + " fields where " + std::to_string(header.size()) + " are due";
    }
    Json row = Json::object();
    for (std::size_t i = 0; i < header.size() && record.error.empty(); ++i)
      row[header[i]] = std::move(record.fields[i]);
    if (!on_record({name, record.line, true}, row, record.error)) return;
  }
}

}  // namespace

void for_each_record(const std::filesystem::path& path, const RecordOptions& options, const OnRecord& on_record) {
  const auto name = path.string();
  TextFile file(path);
  switch (container(path, file)) {
    case Container::document:
      return for_each_element(name, file, options, on_record);
    case Container::lines:
      return for_each_line(name, file, on_record);
    case Container::csv:
      return for_each_csv_record(name, file, options, on_record);
  }
}

}  // namespace align::dataset
