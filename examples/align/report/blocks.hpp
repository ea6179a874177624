#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "report/run_folder.hpp"

namespace align::report {

/// What a block is, from the name of its parameter: model.layers.3.self_attn.q_proj.weight is "q" of layer 3.
struct BlockKind {
  std::string kind;         ///< "other" for a name that says nothing
  std::int64_t layer = -1;  ///< -1: none
};
BlockKind kind_of(const std::string& name);

/// The heat map, with rows in the order of kind and layer, and at most `columns` columns: means over as many lines of
/// blocks.jsonl each.
///
///     {"groups": [{"kind", "rows": N}], "rows": [{"name", "layer", "form", "rank"}],
///      "columns": [[FIRST_STEP, LAST_STEP]], "unit": U, "values": [[N, ...], ...] in units of U, null: none}
nlohmann::json heat_map(const BlockTable& table, std::size_t columns);

}  // namespace align::report
