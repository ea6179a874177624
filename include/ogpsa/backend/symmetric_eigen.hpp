#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "ogpsa/backend/divide_and_conquer.hpp"
#include "ogpsa/backend/tridiagonal.hpp"
#include "ogpsa/finite.hpp"

/// \file
/// Eigenvalues and leading eigenvectors of a symmetric matrix, in double. Written out because Eigen's solver costs each
/// file that instantiates it a third of its compilation, computes every eigenvector, and is several times slower.

namespace ogpsa::detail {

/// Eigenvalues, descending, of a symmetric matrix (n x n, its lower triangle; destroyed), and as many leading
/// eigenvectors as `vectors` has columns. Nothing where a value is not finite, or the iteration does not
/// converge.
inline std::optional<std::vector<double>> symmetric_eigen(MatrixView<double> a, MatrixView<double> vectors) {
  const Index n = a.rows;
  if (n == 0) return std::vector<double>();
  double scale = 0;
  for (Index j = 0; j < n; ++j) {
    for (Index i = j; i < n; ++i) {
      if (!is_finite(a.data[i + j * n])) return std::nullopt;
      scale = std::max(scale, std::abs(a.data[i + j * n]));
    }
  }
  if (!(scale > 0)) scale = 1;
  for (Index i = 0; i < n * n; ++i) a.data[i] /= scale;
  Tridiagonal t = tridiagonalize(a.data, n);
  std::vector<double> q(static_cast<std::size_t>(n * n));
  if (!divide_and_conquer(t.diagonal, t.below, {q.data(), n, n}, vectors.cols, {vectors, true})) return std::nullopt;
  apply_reflections(a.data, t, vectors);
  std::vector<double> values(t.diagonal.rbegin(), t.diagonal.rend());
  for (double& value : values) value *= scale;
  return values;
}

}  // namespace ogpsa::detail
