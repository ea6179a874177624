#pragma once

#include <torch/torch.h>

#include <span>
#include <vector>

#include "ogpsa/backend/eigen.hpp"

namespace ogpsa::torch {

/// The CPU backend with LibTorch's LAPACK for eigenvectors: of a 1536 x 1536 matrix, as one side of a layer has them,
/// in a fraction of Eigen's time.
class LibTorchBackend : public EigenBackend {
 public:
  using EigenBackend::EigenBackend;

  /// See EigenBackend. \throws NumericalError
  template <class T>
  std::vector<Eigen::VectorXd> eigenvectors(std::span<const EigenProblem<T>> problems) const {
    if (!at::hasMKL()) return EigenBackend::eigenvectors(problems);
    return solve_each(problems, solve<T>);
  }

 private:
  template <class T>
  static Eigen::VectorXd solve(const EigenProblem<T>& problem) {
    const auto& [symmetric, vectors] = problem;
    const ::torch::NoGradGuard no_grad;
    const Index n = symmetric.rows;
    const auto dtype = c10::CppTypeToScalarType<T>::value;
    auto* data = const_cast<T*>(symmetric.data);  // only read
    const auto a = ::torch::from_blob(data, {n, n}, {1, symmetric.stride}, dtype).to(::torch::kFloat64);
    ::torch::Tensor values, basis;
    try {
      std::tie(values, basis) = at::linalg_eigh(a, "L");  // ascending
    } catch (const c10::Error&) {
      throw NumericalError("ogpsa: the eigenvalues of a symmetric matrix of " + ogpsa::detail::size_text(n, n) +
                           " did not converge; check the reference data for extreme values");
    }
    const auto leading = basis.slice(1, n - vectors.cols, n).flip(1);
    ::torch::from_blob(vectors.data, {n, vectors.cols}, {1, vectors.stride}, dtype).copy_(leading);
    values = values.flip(0).contiguous();
    return Eigen::Map<const Eigen::VectorXd>(values.template data_ptr<double>(), n);
  }
};

static_assert(Backend<LibTorchBackend, float> && Backend<LibTorchBackend, double>);

}  // namespace ogpsa::torch
