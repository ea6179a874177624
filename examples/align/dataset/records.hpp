#pragma once

#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "dataset/rows.hpp"

namespace align::dataset {

using Json = nlohmann::json;

struct RecordOptions {
  /// Tells a file that is one row from an object that holds the rows.
  std::function<bool(const Json&)> is_row;
  /// A CSV whose first line ends with one capital letter has no header but the columns of MMLU.
  bool may_be_mmlu = false;
};

/// Called for each record: what it holds, or (not empty) why it cannot be read. False stops.
using OnRecord = std::function<bool(const Source& source, const Json& record, const std::string& error)>;

/// Goes through a file: the elements of a JSON array, the lines of JSON Lines, or the lines of a CSV as objects of
/// strings. \throws ogpsa::FileError when the file as a whole cannot be read
void for_each_record(const std::filesystem::path& path, const RecordOptions& options, const OnRecord& on_record);

}  // namespace align::dataset
