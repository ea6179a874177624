#pragma once

#include <Eigen/Core>

#include "backend.hpp"
#include "ogpsa/tensor_view.hpp"
#include "random.hpp"

/// \file
/// References in long double (64 bits of significand on x86-64), written without anything of ogpsa's. Those that take
/// long to compile are defined in main.cpp.

namespace test {

using Real = long double;
using MatrixL = Matrix<Real>;
using VectorL = Vector<Real>;

template <class Derived>
Eigen::Matrix<Real, Derived::RowsAtCompileTime, Derived::ColsAtCompileTime> exact(const Eigen::MatrixBase<Derived>& a) {
  return a.unaryExpr([](const typename Derived::Scalar& x) {
    if constexpr (sizeof(x) == 2) return static_cast<Real>(static_cast<float>(x));
    return static_cast<Real>(x);
  });
}

/// A matrix that the backend holds.
template <class T>
MatrixL exact(ogpsa::MatrixView<const T> a) {
  return exact(from_backend(a));
}

/// max |Q^T Q - I|
double orthonormality_error(const MatrixL& q);

/// Thin SVD by Jacobi rotations, of any shape; U and V are orthonormal even where singular values vanish.
struct ExactSvd {
  MatrixL u;
  VectorL s;
  MatrixL v;
};
ExactSvd exact_svd(const MatrixL& a);

/// An orthonormal basis of the columns of `a` whose singular values exceed `tolerance` times the largest.
MatrixL exact_basis(const MatrixL& a, Real tolerance);

/// Sine of the largest angle between span(a) and span(b), both orthonormal, of the same dimension.
double sine_of_angle(const MatrixL& a, const MatrixL& b);

/// The nearest d to g with <h_r, d> >= 0 for every column h_r, by brute force: every active set is tried.
VectorL nearest_in_cone(const MatrixL& h, const VectorL& g);

}  // namespace test
