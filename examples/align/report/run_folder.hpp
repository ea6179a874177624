#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

/// \file
/// What `ogpsa_align train` has left in a folder. See app/run.hpp.

namespace align::report {

/// metrics.jsonl by columns. What a line lacks is NaN.
struct MetricTable {
  std::vector<std::int64_t> steps;
  std::vector<std::pair<std::string, std::vector<double>>> columns;
};

/// A row of the heat map.
struct Block {
  std::string name, form;
  std::int64_t rank = 0;  ///< at the last step
};

/// blocks.jsonl by columns.
struct BlockTable {
  std::vector<Block> blocks;
  std::vector<std::int64_t> steps;
  std::vector<double> rank;                           ///< of all blocks together, for each step
  std::vector<std::vector<double>> fraction_removed;  ///< of each block, for each step; a missing one is NaN
};

struct StageRecord {
  std::string name;       ///< sft or dpo
  nlohmann::json result;  ///< null: it is not finished
  MetricTable metrics;
  BlockTable blocks;  ///< empty without projection
};

struct RunRecord {
  std::string name;               ///< of the folder, with as much of what is above it as tells runs apart
  std::string model;              ///< what was trained, as its users call it; see model_name
  nlohmann::json settings, base;  ///< base: null when there was no evaluation
  bool complete = false;
  std::vector<StageRecord> stages;  ///< those that the settings have, begun or not
  std::vector<std::string> notes;   ///< what could not be read
};

/// The name of a model from its path: that of its folder, unless this is one that a cache or a trainer has made. After
/// a run of `ogpsa_align train` it is the name of what that began with, and the run in parentheses.
/// \param runs  how many runs to go back
std::string model_name(const std::filesystem::path& model, int runs = 4);

/// A metrics.jsonl, `name` in `folder`. \param notes  told which lines are damaged and left out
MetricTable read_metrics(const std::filesystem::path& folder, const std::string& name, std::vector<std::string>& notes);

/// Damaged lines, and a base.json or result.json that is no JSON, are left out and noted; a last line that was cut
/// short is left out. \throws ogpsa::InvalidArgument for a folder that is no run
RunRecord read_run(const std::filesystem::path& folder);

/// The runs of all folders, each once. \throws ogpsa::InvalidArgument
std::vector<RunRecord> read_runs(const std::vector<std::filesystem::path>& folders);

}  // namespace align::report
