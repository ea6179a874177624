#pragma once

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "ogpsa/tensor_view.hpp"

/// \file
/// Seeded random matrices, the same on every platform. The factorisations are in main.cpp.

namespace test {

using ogpsa::Index;

template <class T>
using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
template <class T>
using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;

/// Unit roundoff of an arithmetic type.
template <class T>
inline constexpr double roundoff = static_cast<double>(std::numeric_limits<T>::epsilon()) / 2;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool small_sizes = true;  // sanitizers are slow
#else
inline constexpr bool small_sizes = false;
#endif

/// SplitMix64 (Steele, Lea and Flood 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  /// In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }
  /// In [low, high].
  Index integer(Index low, Index high) {
    return low + static_cast<Index>(bits() % static_cast<std::uint64_t>(high - low + 1));
  }

  template <class T = double>
  Matrix<T> gaussian(Index rows, Index cols) {
    Matrix<T> a(rows, cols);
    for (Index i = 0; i < a.size(); ++i) a(i) = static_cast<T>(normal());
    return a;
  }
  /// `rows x cols`, orthonormal columns.
  Eigen::MatrixXd orthonormal(Index rows, Index cols);
  /// U diag(s) V^T with random U (rows x r) and V (cols x r).
  Eigen::MatrixXd with_singular_values(Index rows, Index cols, const Eigen::VectorXd& s);

 private:
  std::uint64_t state_;
};

/// 1, ..., 1/condition, in equal ratios.
inline Eigen::VectorXd geometric(Index count, double condition) {
  Eigen::VectorXd s(count);
  for (Index i = 0; i < count; ++i) {
    s(i) = std::pow(condition, -static_cast<double>(i) / static_cast<double>(std::max<Index>(count - 1, 1)));
  }
  return s;
}

}  // namespace test
