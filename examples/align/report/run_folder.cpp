#include "report/run_folder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <limits>
#include <ogpsa/error.hpp>
#include <unordered_map>

namespace align::report {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

/// Discarded when it cannot be read or is no JSON.
json parse_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return json::parse(file, nullptr, /*allow_exceptions=*/false);
}

/// A file that may be missing: then, or when it is no object, null.
json read_optional(const fs::path& folder, const std::string& name, std::vector<std::string>& notes) {
  if (!fs::exists(folder / name)) return nullptr;
  auto result = parse_file(folder / name);
  if (result.is_object()) return result;
  notes.push_back(name + " is damaged and left out.");
  return nullptr;
}

/// A number at `key`, or NaN: JSON has null for what is not finite.
double number_at(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number() ? found->get<double>() : kMissing;
}

/// Calls `use(step, line)` for each line that is an object with a step.
template <class F>
void each_line(const fs::path& folder, const std::string& name, std::vector<std::string>& notes, F use) {
  std::ifstream file(folder / name, std::ios::binary);
  std::size_t number = 0, damaged = 0, first = 0;
  for (std::string text; std::getline(file, text);) {
    ++number;
    const bool cut_short = file.eof();
    const auto line = json::parse(text, nullptr, /*allow_exceptions=*/false);
    if (line.is_object() && line.contains("step") && line.at("step").is_number_integer()) {
      use(line.at("step").get<std::int64_t>(), line);
    } else if (!cut_short) {
      if (damaged++ == 0) first = number;
    }
  }
  if (damaged == 1) notes.push_back(fmt::format("Line {} of {} is damaged and left out.", first, name));
  if (damaged > 1) {
    notes.push_back(
        fmt::format("{} lines of {} are damaged and left out; the first is line {}.", damaged, name, first));
  }
}

/// A run that was killed repeats some steps: the last line of a step counts.
/// \return how many of `steps` stay
std::size_t kept_before(const std::vector<std::int64_t>& steps, std::int64_t step) {
  return static_cast<std::size_t>(std::lower_bound(steps.begin(), steps.end(), step) - steps.begin());
}

/// Finds the row of a block. Lines name the same blocks in the same order, so a row is mostly where it is expected.
class BlockRows {
 public:
  explicit BlockRows(std::vector<Block>& blocks) : blocks_(blocks) {}

  std::size_t row(const std::string& name, std::size_t expected) {
    if (expected < blocks_.size() && blocks_[expected].name == name) return expected;
    const auto [found, is_new] = rows_.try_emplace(name, blocks_.size());
    if (is_new) blocks_.push_back({name, "", 0});
    return found->second;
  }

 private:
  std::vector<Block>& blocks_;
  std::unordered_map<std::string, std::size_t> rows_;
};

BlockTable read_blocks(const fs::path& folder, const std::string& name, std::vector<std::string>& notes) {
  BlockTable table;
  BlockRows rows(table.blocks);
  each_line(folder, name, notes, [&](std::int64_t step, const json& line) {
    const auto list = line.find("blocks");
    if (list == line.end() || !list->is_array()) return;
    std::vector<double> removed(table.blocks.size(), kMissing);
    double rank = 0;
    std::size_t expected = 0;
    for (const auto& item : *list) {
      if (!item.is_object() || !item.contains("name") || !item.at("name").is_string()) continue;
      const auto row = rows.row(item.at("name").get_ref<const std::string&>(), expected++);
      removed.resize(table.blocks.size(), kMissing);
      removed[row] = number_at(item, "fraction_removed");
      auto& block = table.blocks[row];
      if (const auto form = item.find("form"); form != item.end() && form->is_string()) block.form = *form;
      if (const auto its = number_at(item, "rank"); its >= 0) {
        block.rank = static_cast<std::int64_t>(its);
        rank += its;
      }
    }
    const auto kept = kept_before(table.steps, step);
    table.steps.resize(kept);
    table.rank.resize(kept);
    table.fraction_removed.resize(kept);
    table.steps.push_back(step);
    table.rank.push_back(rank);
    table.fraction_removed.push_back(std::move(removed));
  });
  for (auto& removed : table.fraction_removed) removed.resize(table.blocks.size(), kMissing);
  return table;
}

fs::path normal(const fs::path& folder) {
  const auto path = fs::absolute(folder).lexically_normal();
  return path.has_filename() ? path : path.parent_path();
}

/// The last `count` parts of a path.
std::string tail(const fs::path& path, int count) {
  auto begin = path.end();
  for (; count > 0 && begin != path.begin(); --count) --begin;
  fs::path result;
  for (; begin != path.end(); ++begin) result /= *begin;
  return result.generic_string();
}

/// As short as tells a path from the others.
std::string short_name(const fs::path& path, const std::vector<fs::path>& all) {
  const auto parts = static_cast<int>(std::distance(path.begin(), path.end()));
  for (int count = 1; count < parts; ++count) {
    const auto name = tail(path, count);
    const auto same = [&](const fs::path& other) { return tail(other, count) == name; };
    if (std::count_if(all.begin(), all.end(), same) == 1) return name;
  }
  return path.generic_string();
}

}  // namespace

std::string model_name(const fs::path& model, int runs) {
  const auto path = normal(model), above = path.parent_path();
  const auto name = path.filename().string();
  for (const auto& part : path) {  // Hugging Face's cache: models--OWNER--NAME/snapshots/REVISION
    const auto text = part.string();
    if (text.starts_with("models--")) return text.substr(text.rfind("--") + 2);
  }
  if (name.starts_with("checkpoint-") && above.has_filename()) return model_name(above, runs);
  if (name != "model" || (above.filename() != "sft" && above.filename() != "dpo")) return name;
  const auto run = above.parent_path();
  const auto settings = parse_file(run / "settings.json");
  const auto begin = settings.is_object() ? settings.value("model", json()) : json();
  if (!begin.is_string() || runs == 0) return run.filename().string();
  return fmt::format("{} ({})", model_name(begin.get<std::string>(), runs - 1), run.filename().string());
}

MetricTable read_metrics(const fs::path& folder, const std::string& name, std::vector<std::string>& notes) {
  MetricTable table;
  for (const char* column : {"loss", "learning_rate", "gradient_norm", "tokens", "seconds", "refresh_seconds",
                             "update_seconds", "fraction_removed", "angle", "basis_age", "peak_memory"}) {
    table.columns.emplace_back(column, std::vector<double>());
  }
  each_line(folder, name, notes, [&](std::int64_t step, const json& line) {
    const auto kept = kept_before(table.steps, step);
    table.steps.resize(kept);
    table.steps.push_back(step);
    for (auto& [column, values] : table.columns) {
      values.resize(kept);
      values.push_back(number_at(line, column.c_str()));
    }
  });
  std::erase_if(table.columns, [](const auto& column) {
    return std::all_of(column.second.begin(), column.second.end(), [](double value) { return std::isnan(value); });
  });
  return table;
}

RunRecord read_run(const fs::path& folder) {
  RunRecord run;
  run.name = tail(normal(folder), 1);
  const auto settings = folder / "settings.json";
  if (fs::exists(settings)) run.settings = parse_file(settings);
  for (const char* stage : {"sft", "dpo"}) {
    if (!run.settings.is_object() || !run.settings.contains(stage) || !run.settings.at(stage).is_object()) continue;
    const auto in = [&](const char* file) { return fmt::format("{}/{}", stage, file); };
    run.stages.push_back({stage, read_optional(folder, in("result.json"), run.notes),
                          read_metrics(folder, in("metrics.jsonl"), run.notes),
                          read_blocks(folder, in("blocks.jsonl"), run.notes)});
  }
  if (run.stages.empty()) {
    throw ogpsa::InvalidArgument(fmt::format(
        "'{}' is not the folder of a run: {}; give the --output_dir of `ogpsa_align train`", folder.string(),
        fs::exists(settings) ? "its settings.json names no stage" : "it has no settings.json"));
  }
  if (const auto model = run.settings.find("model"); model != run.settings.end() && model->is_string()) {
    run.model = model_name(model->get<std::string>());
  }
  run.base = read_optional(folder, "base.json", run.notes);
  run.complete = fs::exists(folder / "summary.json");
  return run;
}

std::vector<RunRecord> read_runs(const std::vector<fs::path>& folders) {
  std::vector<fs::path> paths;
  for (const auto& folder : folders) {
    const auto path = normal(folder);
    if (std::find(paths.begin(), paths.end(), path) == paths.end()) paths.push_back(path);
  }
  std::vector<RunRecord> runs;
  for (const auto& path : paths) {
    runs.push_back(read_run(path));
    runs.back().name = short_name(path, paths);
  }
  return runs;
}

}  // namespace align::report
