#include "train/mapped_file.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ogpsa/error.hpp>

namespace align {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto fail = [&] { throw ogpsa::FileError("cannot read '" + path.string() + "': " + std::strerror(errno)); };
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) fail();
  const off_t end = lseek(file, 0, SEEK_END);
  if (end > 0) {
    size_ = static_cast<std::size_t>(end);
    void* memory = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
    data_ = memory == MAP_FAILED ? nullptr : static_cast<const std::byte*>(memory);
  }
  close(file);  // the mapping stays
  if (end < 0 || (size_ > 0 && data_ == nullptr)) fail();
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace align
