#pragma once

#include <cstddef>
#include <deque>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct gzFile_s;  // of zlib.h

namespace align::dataset {

/// A text file, gzipped (whatever its name) or not, read line by line. \throws ogpsa::FileError when it cannot be read
class TextFile {
 public:
  explicit TextFile(const std::filesystem::path& path);

  /// The next line without its end (LF or CRLF) and without byte order mark; false at the end of the file.
  bool next_line(std::string& line);
  /// Lines are given again in the order in which they came: put the last one back first.
  void put_back(std::string line);
  /// Of the line that was given last, from 1.
  std::size_t line_number() const { return line_number_; }

 private:
  struct Close {
    void operator()(gzFile_s* file) const;
  };

  bool fill();
  bool read_line(std::string& line);
  void drop_byte_order_mark(std::string& line) const;

  std::string name_;
  std::unique_ptr<gzFile_s, Close> file_;
  std::vector<char> buffer_;
  std::string_view unread_;  ///< the part of buffer_ that was not given yet
  std::deque<std::string> put_back_;
  std::size_t line_number_ = 0;
};

/// Whether nothing but white space is in it.
bool is_blank(std::string_view text);
/// Without white space at both ends.
std::string_view trimmed(std::string_view text);
/// Where the first byte stands that is not UTF-8; npos when all are.
std::size_t invalid_utf8(std::string_view text);
/// For messages: at most `length` bytes, without what a terminal cannot show.
std::string excerpt(std::string_view text, std::size_t length = 60);

}  // namespace align::dataset
