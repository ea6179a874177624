#include "dataset/csv.hpp"

namespace align::dataset {
namespace {

/// Takes the fields of one record out of its lines.
class RecordParser {
 public:
  explicit RecordParser(CsvRecord& record) : record_(record) { record_.fields.assign(1, {}); }

  /// False when the record goes on in the next line, since a quote is open.
  bool add_line(const std::string& line) {
    if (state_ == State::quoted) field() += '\n';
    for (const char c : line) add(c);
    return state_ != State::quoted;
  }

 private:
  enum class State { begin, plain, quoted, after_quote };

  std::string& field() { return record_.fields.back(); }

  void add(char c) {
    if (state_ == State::quoted) {
      if (c == '"') {
        state_ = State::after_quote;
      } else {
        field() += c;
      }
    } else if (c == ',') {
      record_.fields.emplace_back();
      state_ = State::begin;
    } else if (c == '"' && state_ != State::plain) {
      if (state_ == State::after_quote) field() += c;  // a doubled quote stands for one
      state_ = State::quoted;
    } else {
      if (state_ == State::after_quote) record_.error = "text follows a closing quote; write quotes in a field twice";
      state_ = State::plain;
      field() += c;
    }
  }

  CsvRecord& record_;
  State state_ = State::begin;
};

void check_text(CsvRecord& record) {
  for (std::size_t i = 0; i < record.fields.size() && record.error.empty(); ++i) {
    if (invalid_utf8(record.fields[i]) == std::string::npos) continue;
    record.error = "field " + std::to_string(i + 1) + " is not UTF-8; convert the file";
  }
}

}  // namespace

bool next_record(TextFile& file, CsvRecord& record) {
  std::string line;
  do {
    if (!file.next_line(line)) return false;
  } while (is_blank(line));
  record.line = file.line_number();
  record.error.clear();
  RecordParser parser(record);
  while (!parser.add_line(line)) {
    if (file.next_line(line)) continue;
    record.error = "a quote that is opened here is not closed before the end of the file";
    break;
  }
  check_text(record);
  return true;
}

}  // namespace align::dataset
