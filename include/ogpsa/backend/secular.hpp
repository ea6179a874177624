#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// Eigenvalues of a diagonal matrix and one of rank one, D + rho z z^T: the roots of the secular equation.

namespace ogpsa::detail {

/// d - (shift + offset), to full accuracy where shift is the d nearest to that sum.
OGPSA_ALWAYS_INLINE double distance(double d, double shift, double offset) {
  double difference = d - shift;
  return fenced(difference) - offset;
}

/// sums <- { sum_i z_i^2 / x_i, sum_i (z_i / x_i)^2 } for x_i = d_i - shift - mu.
struct SecularKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* d, const double* z, Index n, double shift, double mu,
                                      double* sums) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    typename V::Type value = {}, slope = {};
    Index i = 0;
    for (; i + V::size <= n; i += V::size) {
      typename V::Type x = *reinterpret_cast<const Unaligned*>(d + i) - shift;
      x = fenced(x) - mu;
      const typename V::Type weight = *reinterpret_cast<const Unaligned*>(z + i);
      const typename V::Type ratio = weight / x;
      value += weight * ratio;
      slope += ratio * ratio;
    }
    sums[0] = sums[1] = 0;
    for (Index l = 0; l < V::size; ++l) {
      sums[0] += value[l];
      sums[1] += slope[l];
    }
    for (; i < n; ++i) {
      const double ratio = z[i] / distance(d[i], shift, mu);
      sums[0] += z[i] * ratio;
      sums[1] += ratio * ratio;
    }
  }
};

/// to_i <- factor_i * x_i / (d_i - pole) for x_i = d_i - shift - mu.
struct LoewnerKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const double* d, Index n, double pole, double shift, double mu, double* factor) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    Index i = 0;
    for (; i + V::size <= n; i += V::size) {
      const typename V::Type at = *reinterpret_cast<const Unaligned*>(d + i);
      typename V::Type x = at - shift;
      x = (fenced(x) - mu) / (at - pole);
      *reinterpret_cast<Unaligned*>(factor + i) *= x;
    }
    for (; i < n; ++i) factor[i] *= distance(d[i], shift, mu) / (d[i] - pole);
  }
};

/// An eigenvalue d[origin] + offset, in two parts: its distance to every d is then known to full accuracy.
struct SecularRoot {
  Index origin;
  double offset;
};

/// Where the function is evaluated, and its parts: psi of the poles up to the root, phi of those after it.
struct SecularValue {
  double psi, psi_slope, phi, phi_slope;
  double f() const { return 1 + psi + phi; }
};

/// D + rho z z^T for D ascending without repetitions, rho > 0, and no z that vanishes.
class SecularEquation {
 public:
  SecularEquation(const std::vector<double>& d, const std::vector<double>& z, double rho) : d_(d), z_(z), rho_(rho) {}

  /// Eigenvalue j, between d_j and d_{j + 1}, by rational interpolation of psi and phi (Bunch, Nielsen and Sorensen
  /// 1978), kept in its bracket.
  SecularRoot root(Index j) const {
    const bool last = j + 1 == size();
    double low = 0, high = 0;
    if (last) {
      double squares = 0;
      for (const double z : z_) squares += z * z;
      high = rho_ * squares;
    } else {
      high = d(j + 1) - d(j);
    }
    SecularRoot root{j, high / 2};
    SecularValue value = evaluate(root, j);
    if (!last && value.f() < 0) {  // in the upper half
      root = {j + 1, -high / 2};
      low = root.offset;
      high = 0;
    } else {
      (value.f() < 0 ? low : high) = root.offset;
    }
    for (int step = 0; step < 100; ++step) {
      constexpr double u = std::numeric_limits<double>::epsilon() / 2;
      const double scale = 8 * (1 + std::abs(value.psi) + std::abs(value.phi)) +
                           std::abs(root.offset) * (value.psi_slope + value.phi_slope);
      if (std::abs(value.f()) <= u * scale) break;
      double next = root.offset + (last ? last_step(root, value) : inner_step(root, value, j));
      if (!(next > low && next < high)) next = between(low, high);
      if (next == root.offset) break;
      root.offset = next;
      value = evaluate(root, j);
      (value.f() < 0 ? low : high) = root.offset;
    }
    return root;
  }

  /// The vector z^ near z for which `roots` are exact (Gu and Eisenstat 1994): eigenvectors from it are orthogonal.
  std::vector<double> exact_vector(const std::vector<SecularRoot>& roots) const {
    std::vector<double> squares(z_.size(), 1.0);
    for (Index j = 0; j < size(); ++j) {
      const SecularRoot& root = roots[static_cast<std::size_t>(j)];
      const double shift = d(root.origin);
      run_best<LoewnerKernel>(d_.data(), j, d(j), shift, root.offset, squares.data());
      squares[static_cast<std::size_t>(j)] *= distance(d(j), shift, root.offset);
      run_best<LoewnerKernel>(d_.data() + j + 1, size() - j - 1, d(j), shift, root.offset, squares.data() + j + 1);
    }
    for (std::size_t i = 0; i < squares.size(); ++i) squares[i] = std::copysign(std::sqrt(std::abs(squares[i])), z_[i]);
    return squares;
  }

 private:
  Index size() const { return static_cast<Index>(d_.size()); }
  double d(Index i) const { return d_[static_cast<std::size_t>(i)]; }

  SecularValue evaluate(const SecularRoot& root, Index j) const {
    double below[2], above[2];
    run_best<SecularKernel>(d_.data(), z_.data(), j + 1, d(root.origin), root.offset, static_cast<double*>(below));
    run_best<SecularKernel>(d_.data() + j + 1, z_.data() + j + 1, size() - j - 1, d(root.origin), root.offset,
                            static_cast<double*>(above));
    return {rho_ * below[0], rho_ * below[1], rho_ * above[0], rho_ * above[1]};
  }
  /// psi is taken for r + s / (d_j - x), phi for R + S / (d_{j + 1} - x).
  double inner_step(const SecularRoot& root, const SecularValue& value, Index j) const {
    const double left = distance(d(j), d(root.origin), root.offset);
    const double right = distance(d(j + 1), d(root.origin), root.offset);
    const double c = value.f() - left * value.psi_slope - right * value.phi_slope;
    const double a = (left + right) * value.f() - left * right * (value.psi_slope + value.phi_slope);
    const double b = left * right * value.f();
    const double root_of = std::sqrt(std::max(a * a - 4 * b * c, 0.0));
    return a <= 0 ? (a - root_of) / (2 * c) : 2 * b / (a + root_of);
  }
  double last_step(const SecularRoot& root, const SecularValue& value) const {
    const double left = -root.offset;
    return left + left * left * value.psi_slope / (value.f() - left * value.psi_slope);
  }
  /// One end of the bracket may be 0, a pole: the root can be many orders of magnitude nearer to it than the other.
  static double between(double low, double high) {
    if (low == 0) return high / 64;
    if (high == 0) return low / 64;
    return low / 2 + high / 2;
  }

  const std::vector<double>& d_;
  const std::vector<double>& z_;
  double rho_;
};

}  // namespace ogpsa::detail
