#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "ogpsa/backend/instruction_set.hpp"
#include "ogpsa/tensor_view.hpp"

/// \file
/// QR steps on a small symmetric tridiagonal matrix.

namespace ogpsa::detail {

/// (x, y) <- (c x - s y, s x + c y) for the columns i and i + 1 of X, i = 0 .. count - 1 one after the other.
struct Rotation {
  double c, s;
};
struct RotateKernel {
  template <int Bytes>
  OGPSA_ALWAYS_INLINE static void run(const Rotation* rotations, Index count, double* x, Index stride, Index rows) {
    using V = Vector<double, Bytes>;
    using Unaligned = typename V::Unaligned;
    for (Index k = 0; k < count; ++k, x += stride) {
      const double c = rotations[k].c, s = rotations[k].s;
      double* y = x + stride;
      Index i = 0;
      for (; i + V::size <= rows; i += V::size) {
        const typename V::Type a = *reinterpret_cast<const Unaligned*>(x + i);
        const typename V::Type b = *reinterpret_cast<const Unaligned*>(y + i);
        *reinterpret_cast<Unaligned*>(x + i) = a * c - b * s;
        *reinterpret_cast<Unaligned*>(y + i) = a * s + b * c;
      }
      for (; i < rows; ++i) {
        const double a = x[i], b = y[i];
        x[i] = a * c - b * s;
        y[i] = a * s + b * c;
      }
    }
  }
};

/// One implicit QR step on the rows and columns [start, end] of T.
inline void qr_step(std::span<double> d, std::span<double> e, std::size_t start, std::size_t end,
                    std::vector<Rotation>& rotations) {
  const double half = (d[end - 1] - d[end]) / 2, last = e[end - 1];
  const double root = std::hypot(half, last);
  const double shift = d[end] - last * (last / (half + (half < 0 ? -root : root)));
  double x = d[start] - shift, z = e[start];
  rotations.clear();
  for (std::size_t k = start; k < end; ++k) {
    const double r = std::hypot(x, z);
    const double c = r > 0 ? x / r : 1.0, s = r > 0 ? -z / r : 0.0;
    rotations.push_back({c, s});
    if (k > start) e[k - 1] = r;
    const double upper = d[k], lower = d[k + 1], between = e[k];
    d[k] = c * c * upper - 2 * c * s * between + s * s * lower;
    d[k + 1] = s * s * upper + 2 * c * s * between + c * c * lower;
    e[k] = c * s * (upper - lower) + (c * c - s * s) * between;
    x = e[k];
    if (k + 1 == end) break;
    z = -s * e[k + 1];
    e[k + 1] *= c;
  }
}

/// Makes T diagonal by QR steps with Wilkinson's shift (Golub and Van Loan, 8.3), and turns the columns of q (n x n)
/// with it. False where that does not converge.
inline bool diagonalize(std::span<double> d, std::span<double> e, MatrixView<double> q) {
  std::vector<Rotation> rotations;
  std::size_t end = d.size() - 1;
  for (Index steps = 0; steps <= 30 * q.rows; ++steps) {
    for (std::size_t i = 0; i < end; ++i) {
      const double near = std::numeric_limits<double>::epsilon() * (std::abs(d[i]) + std::abs(d[i + 1]));
      if (std::abs(e[i]) <= near || std::abs(e[i]) < 1e-140) e[i] = 0;  // else its square is no normal number
    }
    while (end > 0 && e[end - 1] == 0) --end;
    if (end == 0) return true;
    std::size_t start = end - 1;
    while (start > 0 && e[start - 1] != 0) --start;
    qr_step(d, e, start, end, rotations);
    run_best<RotateKernel>(static_cast<const Rotation*>(rotations.data()), static_cast<Index>(rotations.size()),
                           q.data + static_cast<Index>(start) * q.stride, q.stride, q.rows);
  }
  return false;
}

}  // namespace ogpsa::detail
