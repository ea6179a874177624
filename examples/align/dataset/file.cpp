#include "dataset/file.hpp"

#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <ogpsa/error.hpp>

namespace align::dataset {

void TextFile::Close::operator()(gzFile_s* file) const { gzclose(file); }

TextFile::TextFile(const std::filesystem::path& path) : name_(path.string()), buffer_(1 << 18) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (status.type() == std::filesystem::file_type::not_found) {
    throw ogpsa::FileError("there is no file '" + name_ + "'; check the path");
  }
  // zlib would open it, and fail with a message about its content.
  if (status.type() == std::filesystem::file_type::directory) {
    throw ogpsa::FileError("'" + name_ + "' is a folder; name one of the files in it");
  }
  errno = 0;
  file_.reset(gzopen(path.c_str(), "rb"));
  if (file_ == nullptr) {
    throw ogpsa::FileError("cannot open '" + name_ + "': " + (errno != 0 ? std::strerror(errno) : "out of memory"));
  }
}

bool TextFile::fill() {
  const auto count = gzread(file_.get(), buffer_.data(), static_cast<unsigned>(buffer_.size()));
  int status = Z_OK;
  const char* message = gzerror(file_.get(), &status);
  // A member that ends early gives the bytes that it has and this status, not an error.
  if (status == Z_BUF_ERROR) throw ogpsa::FileError("'" + name_ + "' is cut off within its gzip data; get it again");
  if (count < 0 || status != Z_OK) {
    std::string reason = status == Z_ERRNO ? std::strerror(errno) : message;
    if (reason.starts_with(name_ + ": ")) reason.erase(0, name_.size() + 2);  // zlib names the file too
    throw ogpsa::FileError("cannot read '" + name_ + "' after line " + std::to_string(line_number_) + ": " + reason);
  }
  unread_ = {buffer_.data(), static_cast<std::size_t>(count)};
  return count > 0;
}

bool TextFile::read_line(std::string& line) {
  line.clear();
  while (!unread_.empty() || fill()) {
    const auto end = unread_.find('\n');
    line += unread_.substr(0, end);
    unread_.remove_prefix(end == unread_.npos ? unread_.size() : end + 1);
    if (end != unread_.npos) return true;
  }
  return !line.empty();
}

void TextFile::drop_byte_order_mark(std::string& line) const {
  if (line.starts_with("\xFF\xFE") || line.starts_with("\xFE\xFF")) {
    throw ogpsa::FileError("'" + name_ + "' is UTF-16; convert it to UTF-8");
  }
  if (line.starts_with("\xEF\xBB\xBF")) line.erase(0, 3);
}

bool TextFile::next_line(std::string& line) {
  if (!put_back_.empty()) {
    line = std::move(put_back_.front());
    put_back_.pop_front();
  } else {
    if (!read_line(line)) return false;
    if (line_number_ == 0) drop_byte_order_mark(line);
    if (line.ends_with('\r')) line.pop_back();
  }
  ++line_number_;
  return true;
}

void TextFile::put_back(std::string line) {
  put_back_.push_front(std::move(line));
  --line_number_;
}

namespace {

constexpr const char* kWhiteSpace = " \t\r\n\v\f";

}  // namespace

bool is_blank(std::string_view text) { return text.find_first_not_of(kWhiteSpace) == text.npos; }

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(kWhiteSpace);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kWhiteSpace) + 1 - begin);
}

std::size_t invalid_utf8(std::string_view text) {
  const auto byte = [&](std::size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  for (std::size_t i = 0; i < text.size();) {
    const unsigned lead = byte(i);
    const std::size_t length = lead < 0x80   ? 1
                               : lead < 0xC2 ? 0
                               : lead < 0xE0 ? 2
                               : lead < 0xF0 ? 3
                               : lead < 0xF5 ? 4
                                             : 0;
    if (length == 0) return i;
    for (std::size_t k = 1; k < length; ++k) {
      if ((byte(i + k) & 0xC0) != 0x80) return i;
    }
    const unsigned second = byte(i + 1);
    // Overlong forms, surrogates, and what lies beyond U+10FFFF.
    if ((lead == 0xE0 && second < 0xA0) || (lead == 0xED && second > 0x9F) || (lead == 0xF0 && second < 0x90) ||
        (lead == 0xF4 && second > 0x8F)) {
      return i;
    }
    i += length;
  }
  return text.npos;
}

std::string excerpt(std::string_view text, std::size_t length) {
  auto cut = text.substr(0, length);
  // Not within a character.
  if (cut.size() < text.size()) {
    while (!cut.empty() && (static_cast<unsigned char>(text[cut.size()]) & 0xC0) == 0x80) cut.remove_suffix(1);
  }
  const bool shown = invalid_utf8(cut) == cut.npos;
  std::string result;
  for (const char c : cut) {
    const auto value = static_cast<unsigned char>(c);
    result += value < 0x20 || value == 0x7F || (value >= 0x80 && !shown) ? '?' : c;
  }
  return cut.size() < text.size() ? result + "..." : result;
}

}  // namespace align::dataset
