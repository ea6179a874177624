#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "ogpsa/small_matrix.hpp"
#include "ogpsa/tensor_view.hpp"

namespace ogpsa {

/// How many directions to keep. All limits hold together; the defaults keep every direction above rounding.
struct RankOptions {
  /// At most so many directions; 0: no such limit.
  Index max_rank = 0;
  /// At most this share of the ambient dimension, in (0, 1], rounded up.
  double max_share = 1.0;
  /// Keep the fewest directions whose squared singular values hold this fraction tau of the total, in (0, 1].
  double energy = 1.0;
  /// Drop singular values at or below this multiple of the largest; negative: `default_relative_tolerance`.
  double relative_tolerance = -1.0;
};

/// The default relative tolerance for a matrix of `cols` columns stored as `T`: what rounding its entries alone can
/// add to a singular value (about u sqrt(cols)), with a margin of 8.
template <class T>
double default_relative_tolerance(Index cols) {
  const double u = static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;
  return 8 * u * std::sqrt(static_cast<double>(std::max<Index>(cols, 1)));
}

/// \throws InvalidArgument for a limit outside its range.
inline void check(const RankOptions& options) {
  const auto fail = [](const char* name, detail::Word value, const char* must) {
    throw InvalidArgument(detail::text({"ogpsa: RankOptions: ", name, " is ", value, must}));
  };
  if (options.max_rank < 0) {
    fail("max_rank", options.max_rank, "; use 0 for no limit, or a positive number");
  }
  if (!detail::is_share(options.max_share)) {
    fail("max_share", options.max_share, "; it must be in (0, 1]");
  }
  if (!detail::is_share(options.energy)) {
    fail("energy", options.energy, "; it must be in (0, 1]");
  }
  if (!detail::is_finite(options.relative_tolerance) || options.relative_tolerance >= 1) {
    fail("relative_tolerance", options.relative_tolerance, "; it must be a number below 1");
  }
}

/// Number of leading singular values to keep.
/// \param singular_values  descending, non-negative
/// \param dimension        length of the singular vectors
/// \param tolerance        used when `options.relative_tolerance` is negative
/// \param total_norm       root of the sum of all squared singular values, where some are not in the list
inline Index select_rank(const Eigen::VectorXd& singular_values, Index dimension, double tolerance,
                         const RankOptions& options, double total_norm = 0) {
  check(options);
  const detail::ConstColumn values = detail::values(singular_values);
  const Index available = singular_values.size();
  if (available == 0 || !(values[0] > 0)) return 0;
  const double largest = values[0];
  const double threshold = options.relative_tolerance < 0 ? tolerance : options.relative_tolerance;
  Index rank = 0;
  while (rank < available && detail::at(singular_values, rank) > threshold * largest) ++rank;
  if (options.energy < 1) {
    const auto energy = [&](double value) { return value / largest * (value / largest); };
    double total = 0;
    for (const double value : values) total += energy(value);
    const double wanted = options.energy * std::max(total, energy(total_norm));
    double sum = 0;
    Index k = 0;
    while (k < rank && sum < wanted) sum += energy(detail::at(singular_values, k++));
    rank = k;
  }
  if (options.max_share < 1) {
    const double most = std::ceil(options.max_share * static_cast<double>(dimension) - 1e-9);
    rank = std::min(rank, std::max<Index>(1, static_cast<Index>(most)));
  }
  if (options.max_rank > 0) rank = std::min(rank, options.max_rank);
  return rank;
}

}  // namespace ogpsa
