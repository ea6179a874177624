#pragma once

#include <string>
#include <vector>

#include "dataset/file.hpp"

namespace align::dataset {

/// A record of a CSV file as RFC 4180 has it.
struct CsvRecord {
  std::vector<std::string> fields;
  std::size_t line = 0;  ///< where it begins
  std::string error;     ///< why it cannot be read, if not empty
};

/// Blank lines are left out; a line end within quotes becomes LF. False at the end of the file.
bool next_record(TextFile& file, CsvRecord& record);

}  // namespace align::dataset
