#pragma once

#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "ogpsa/safetensors_header.hpp"
#include "ogpsa/tensor_view.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#endif

/// \file
/// Files in the safetensors layout: 8 bytes of header length, a JSON header, the tensors.

namespace ogpsa {

static_assert(std::endian::native == std::endian::little, "safetensors files are little endian");

namespace detail {

/// A file that is written beside another one and takes its place as a whole, or is removed.
class ReplacementFile {
 public:
  explicit ReplacementFile(const std::filesystem::path& target)
      : target_(target), temporary_(target.string() + ".tmp"), file_(std::fopen(temporary_.string().c_str(), "wb")) {
    if (!file_) fail("create");
  }
  ReplacementFile(const ReplacementFile&) = delete;
  ReplacementFile& operator=(const ReplacementFile&) = delete;
  ~ReplacementFile() {
    if (file_) std::fclose(file_);
    std::error_code ignored;
    if (!committed_) std::filesystem::remove(temporary_, ignored);
  }

  std::uint64_t written() const { return written_; }
  /// \throws FileError
  void put(const void* data, std::size_t bytes) {
    if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes) fail("write");
    written_ += bytes;
  }
  /// Flushes to the disk and renames. \throws FileError
  void commit() {
    if (std::fflush(file_) != 0) fail("write");
#if defined(__unix__) || defined(__APPLE__)
    if (fsync(fileno(file_)) != 0) fail("write");
#endif
    if (std::fclose(std::exchange(file_, nullptr)) != 0) fail("write");
    std::error_code error;
    std::filesystem::rename(temporary_, target_, error);
    if (error) {
      errno = error.value();
      fail("rename");
    }
    committed_ = true;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw FileError(detail::text({"cannot ", what, " '", temporary_.string(), "': ", std::strerror(errno), "; '",
                                  target_.string(), "' is as it was"}));
  }

  std::filesystem::path target_, temporary_;
  std::FILE* file_;
  std::uint64_t written_ = 0;
  bool committed_ = false;
};

}  // namespace detail

/// Collects tensors and writes them in one go. Large ones are not copied: they are asked for when they are written.
class SafetensorsWriter {
 public:
  /// Takes the next bytes of a tensor.
  using Sink = std::function<void(const void* data, std::size_t bytes)>;

  std::map<std::string, std::string> metadata;

  /// Adds a tensor whose values `produce` hands to the sink, in C order, when the file is written.
  /// \throws InvalidArgument for a name that is there already.
  void add(const std::string& name, DType dtype, std::vector<std::uint64_t> shape,
           std::function<void(const Sink&)> produce) {
    add(name, std::string(dtype_name(dtype)), std::move(shape), std::move(produce));
  }
  /// \param dtype  a name of the format, such as I8
  void add(const std::string& name, const std::string& dtype, std::vector<std::uint64_t> shape,
           std::function<void(const Sink&)> produce) {
    std::uint64_t bytes = detail::element_bytes(dtype);
    for (const auto d : shape) bytes *= d;
    SafetensorsEntry entry{dtype, std::move(shape), bytes_, bytes_ + bytes};
    if (!header_.tensors.emplace(name, std::move(entry)).second) {
      throw InvalidArgument(detail::text({"safetensors: tensor '", name, "' is added twice"}));
    }
    bytes_ += bytes;
    producers_.push_back(std::move(produce));
  }
  /// Adds a copy of `values`.
  template <class S>
  requires is_storage_type<S>
  void add(const std::string& name, std::vector<S> values, std::vector<std::uint64_t> shape) {
    add(name, dtype_of<S>(), std::move(shape),
        [values = std::move(values)](const Sink& sink) { sink(values.data(), values.size() * sizeof(S)); });
  }

  /// Writes to `path` + ".tmp", flushes it to the disk and renames it, so that `path` is the old file or the whole new
  /// one at any moment. \throws FileError, or what a producer throws; the old file is then as it was.
  void write(const std::filesystem::path& path) {
    header_.metadata = metadata;
    const std::string header = detail::header_text(header_);
    const std::uint64_t length = header.size();
    detail::ReplacementFile file(path);
    const Sink sink = [&](const void* data, std::size_t bytes) { file.put(data, bytes); };
    sink(&length, sizeof length);
    sink(header.data(), header.size());
    for (const auto& produce : producers_) produce(sink);
    if (file.written() != sizeof length + length + bytes_) {
      throw FileError(
          detail::text({"cannot write '", path.string(), "': a tensor gave more or fewer bytes than its shape holds"}));
    }
    file.commit();
  }

 private:
  SafetensorsHeader header_;
  std::vector<std::function<void(const Sink&)>> producers_;
  std::uint64_t bytes_ = 0;
};

/// Reads tensors from a file; its header is checked as a whole when it is opened.
class SafetensorsReader {
 public:
  /// \throws FileError naming the file and what is wrong with it.
  explicit SafetensorsReader(const std::filesystem::path& path) : path_(path.string()), file_(path, std::ios::binary) {
    if (!file_) throw FileError(detail::text({"cannot open '", path_, "': ", std::strerror(errno)}));
    std::error_code error;
    const std::uint64_t size = std::filesystem::file_size(path, error);
    std::uint64_t length = 0;
    file_.read(reinterpret_cast<char*>(&length), sizeof length);
    if (error || !file_ || length > size - sizeof length) {
      throw FileError(detail::text({"'", path_, "' is not a safetensors file, or is cut short"}));
    }
    std::string text(length, '\0');
    file_.read(text.data(), static_cast<std::streamsize>(length));
    data_begin_ = sizeof length + length;
    try {
      header_ = detail::HeaderParser(text).parse();
      detail::check_header(header_, size - data_begin_);
    } catch (const FileError& e) {
      throw FileError(detail::text({"'", path_, "': ", e.what()}));
    }
  }

  const SafetensorsHeader& header() const { return header_; }
  /// Where in the file the tensors begin, in bytes; entries count from there.
  std::uint64_t data_begin() const { return data_begin_; }
  bool has(const std::string& name) const { return header_.tensors.count(name) > 0; }
  const SafetensorsEntry& entry(const std::string& name) const {
    const auto it = header_.tensors.find(name);
    if (it == header_.tensors.end()) throw FileError(detail::text({"'", path_, "' has no tensor '", name, "'"}));
    return it->second;
  }
  /// \throws FileError where there is no such key.
  const std::string& metadata(const std::string& key) const {
    const auto it = header_.metadata.find(key);
    if (it == header_.metadata.end()) throw FileError(detail::text({"'", path_, "' has no metadata '", key, "'"}));
    return it->second;
  }

  /// The values of a tensor in C order. \throws FileError when it is missing or of another data type.
  template <class S>
  requires is_storage_type<S> std::vector<S> read(const std::string& name) {
    const auto& e = entry(name);
    std::vector<S> values((e.end - e.begin) / detail::element_bytes(e.dtype));
    read<S>(name, 0, values);
    return values;
  }
  /// The values from element `first` on, as many as `values` takes.
  template <class S>
  requires is_storage_type<S>
  void read(const std::string& name, std::uint64_t first, std::span<S> values) {
    read_bytes(name, dtype_name(dtype_of<S>()), first * sizeof(S), std::as_writable_bytes(values));
  }
  /// The bytes of a tensor of the given data type from `first` on, as many as `bytes` takes.
  void read_bytes(const std::string& name, const std::string& dtype, std::uint64_t first, std::span<std::byte> bytes) {
    const auto& e = entry(name);
    if (e.dtype != dtype) {
      throw FileError(detail::text({"'", path_, "': tensor '", name, "' is ", e.dtype, ", but ", dtype, " is wanted"}));
    }
    const std::uint64_t begin = e.begin + first;
    if (begin + bytes.size() > e.end) {
      throw InvalidArgument(detail::text({"safetensors: read beyond the end of tensor '", name, "'"}));
    }
    file_.clear();
    file_.seekg(static_cast<std::streamoff>(data_begin_ + begin));
    file_.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (!file_)
      throw FileError(detail::text({"cannot read tensor '", name, "' from '", path_, "': ", std::strerror(errno)}));
  }

 private:
  std::string path_;
  std::ifstream file_;
  SafetensorsHeader header_;
  std::uint64_t data_begin_ = 0;
};

}  // namespace ogpsa
