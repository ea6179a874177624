#include <doctest/doctest.h>

#include <ogpsa/torch.hpp>

#include "support.hpp"

namespace torch_backend {
namespace {

using ogpsa::Index;

/// | A V - V diag(values) | and | V^T V - I |, in units of roundoff of T times | A | and 1.
template <class T>
void check_eigenvectors(const Eigen::MatrixXd& exact, Index count) {
  using Matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  const Index n = exact.rows();
  Matrix a = exact.template cast<T>(), vectors(n, count);
  a.template triangularView<Eigen::StrictlyUpper>().setConstant(T(77));  // the lower triangle counts
  const ogpsa::EigenProblem<T> problem{{a.data(), n, n}, {vectors.data(), n, count}};
  const auto values = ogpsa::torch::LibTorchBackend().eigenvectors(std::span(&problem, 1)).front();
  const Eigen::MatrixXd stored = Matrix(exact.template cast<T>()).template cast<double>();
  const Eigen::MatrixXd v = vectors.template cast<double>();
  const double u = std::numeric_limits<T>::epsilon() * static_cast<double>(n);
  REQUIRE(values.size() == n);
  for (Index i = 1; i < n; ++i) CHECK(values(i) <= values(i - 1));
  CHECK((stored * v - v * values.head(count).asDiagonal()).norm() <= u * stored.norm());
  CHECK((v.transpose() * v - Eigen::MatrixXd::Identity(count, count)).norm() <= u);
  CHECK(values.sum() == doctest::Approx(stored.trace()).epsilon(1e-9));
}

}  // namespace

TEST_CASE("LibTorch's LAPACK: leading eigenvectors of the lower triangle, descending") {
  const Eigen::MatrixXd x = Eigen::MatrixXd::Random(40, 25);
  const Eigen::MatrixXd gram = x * x.transpose();  // rank 25
  check_eigenvectors<double>(gram, 12);
  check_eigenvectors<float>(gram, 40);
  check_eigenvectors<double>(Eigen::MatrixXd::Identity(7, 7), 3);  // all eigenvalues alike
  check_eigenvectors<float>(Eigen::MatrixXd::Constant(1, 1, 3.0), 1);
}

}  // namespace torch_backend
