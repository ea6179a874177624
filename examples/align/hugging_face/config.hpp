#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "model/config.hpp"

namespace align {

/// Reads the content of a config.json.
/// \param where  the file, for errors
/// \throws ogpsa::InvalidArgument for an architecture or a field that this trainer does not know, naming it: a field
///         that is ignored might change what the model computes
ModelConfig parse_config(const nlohmann::json& json, const std::string& where);

}  // namespace align
