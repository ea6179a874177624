#pragma once

#include <cstddef>
#include <filesystem>

namespace align {

/// A file as read-only memory; pages come from the disk when they are looked at.
class MappedFile {
 public:
  /// \throws ogpsa::FileError
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace align
