#pragma once

#include <bit>
#include <cstdint>

namespace ogpsa::detail {

/// True for what is neither NaN nor infinite. It reads the exponent's bits, so that -ffast-math cannot remove it.
inline bool is_finite(double x) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000u;
  return (std::bit_cast<std::uint64_t>(x) & exponent) != exponent;
}
/// low <= x <= high; false for NaN.
inline bool is_within(double x, double low, double high) { return is_finite(x) && low <= x && x <= high; }
/// 0 < x <= 1; false for NaN.
inline bool is_share(double x) { return is_finite(x) && 0 < x && x <= 1; }

}  // namespace ogpsa::detail
