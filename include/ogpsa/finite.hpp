#pragma once

#include <bit>
#include <cstdint>

namespace ogpsa::detail {

/// True for what is neither NaN nor infinite. It reads the exponent's bits, so that -ffast-math cannot remove it.
inline bool is_finite(double x) {
  constexpr std::uint64_t exponent = 0x7ff0000000000000u;
  return (std::bit_cast<std::uint64_t>(x) & exponent) != exponent;
}

/// The same for every coefficient of a matrix.
template <class M>
bool all_finite(const M& matrix) {
  for (auto j = matrix.cols() - matrix.cols(); j < matrix.cols(); ++j) {
    for (auto i = matrix.rows() - matrix.rows(); i < matrix.rows(); ++i) {
      if (!is_finite(matrix(i, j))) return false;
    }
  }
  return true;
}

}  // namespace ogpsa::detail
