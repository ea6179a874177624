#pragma once

#include <span>

#include "ogpsa/backend/eigen.hpp"
#include "random.hpp"

/// \file
/// Matrices to and from the backend under test: EigenBackend, or what tests/cuda puts in its place.

namespace test {

/// Whether the backend keeps bases in bfloat16 and int8.
#ifdef OGPSA_FULL_BASES_ONLY
inline constexpr bool rounds_bases = false;
#else
inline constexpr bool rounds_bases = true;
#endif

/// A matrix that the backend holds, with the values of an Eigen matrix.
template <class T, class Derived>
auto on_backend(const Eigen::MatrixBase<Derived>& values) {
  const Matrix<T> host = values.template cast<T>();
  const ogpsa::EigenBackend backend;
  auto result = backend.template matrix<T>(host.rows(), host.cols());
  backend.from_host(std::span<const T>(host.data(), static_cast<std::size_t>(host.size())), result.view());
  return result;
}

/// The values of a matrix that the backend holds.
template <class T>
Matrix<T> from_backend(ogpsa::MatrixView<const T> a) {
  Matrix<T> host(a.rows, a.cols);
  ogpsa::EigenBackend().to_host(a, std::span<T>(host.data(), static_cast<std::size_t>(host.size())));
  return host;
}

}  // namespace test
