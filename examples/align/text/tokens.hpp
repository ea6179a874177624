#pragma once

#include <cstdint>
#include <vector>

namespace align {

using Tokens = std::vector<std::int64_t>;

}  // namespace align
