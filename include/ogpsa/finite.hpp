#pragma once

#include <bit>
#include <cstdint>

namespace ogpsa::detail {

/// True for what is neither NaN nor infinite. It reads the exponent's bits, so that -ffast-math cannot remove it.
inline bool is_finite(double x) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000u;
  return (std::bit_cast<std::uint64_t>(x) & exponent) != exponent;
}

}  // namespace ogpsa::detail
