#include <doctest/doctest.h>

#include <algorithm>
#include <memory>

#include "exact.hpp"
#include "random.hpp"
#include "support.hpp"

using namespace ogpsa;
using test::Random;
using test::Real;

namespace test_eigenproblems {
namespace {

/// Symmetric matrices on the device, with known eigenvalues, some of which are repeated.
template <class T>
class Problems {
 public:
  explicit Problems(const std::vector<Index>& sizes, const CudaBackend& backend = {}) : backend_(backend) {
    Random random(6);
    for (const Index n : sizes) {
      const Eigen::MatrixXd q = random.orthonormal(n, n);
      Eigen::VectorXd values = Eigen::VectorXd::LinSpaced(n, static_cast<double>(n), 1);
      if (n > 7) values.segment(3, 4).setConstant(values(3));
      const double scale = std::ldexp(1.0, static_cast<int>(random.integer(-20, 20)));  // of its own
      a_.push_back((scale * q * values.asDiagonal() * q.transpose()).template cast<T>());
      values_.emplace_back(scale * values);
      test::Matrix<T> lower = a_.back();
      lower.template triangularView<Eigen::StrictlyUpper>().setConstant(T(77));
      held_.push_back(std::make_unique<CudaMatrix<T>>(backend.matrix<T>(n, n)));
      backend.from_host(std::span<const T>(lower.data(), static_cast<std::size_t>(n * n)), held_.back()->view());
      vectors_.push_back(std::make_unique<CudaMatrix<T>>(backend.matrix<T>(n, (n + 2) / 3)));
      problems_.push_back({std::as_const(*held_.back()).view(), vectors_.back()->view()});
    }
  }

  std::span<const EigenProblem<T>> all() const { return problems_; }

  /// Eigenvalues as they are known; |A V - V diag(values)| and |V^T V - I| for the vectors, before they are polished.
  void check(const std::vector<Eigen::VectorXd>& found) const {
    REQUIRE(found.size() == problems_.size());
    for (std::size_t p = 0; p < found.size(); ++p) {
      CAPTURE(p);
      const Eigen::VectorXd& values = values_[p];
      REQUIRE(found[p].size() == values.size());
      CHECK((found[p] - values).norm() <= 64 * test::roundoff<T> * values.norm());
      test::Matrix<T> held(values.size(), vectors_[p]->cols());
      backend_.to_host(std::as_const(*vectors_[p]).view(),
                       std::span<T>(held.data(), static_cast<std::size_t>(held.size())));
      const test::MatrixL v = test::exact(held);
      CHECK(test::orthonormality_error(v) <= 64 * test::roundoff<T>);
      const test::MatrixL rest =
          test::exact(a_[p]) * v - v * found[p].head(v.cols()).template cast<Real>().asDiagonal();
      CHECK(rest.norm() <= 64 * test::roundoff<T> * values.norm());
    }
  }

 private:
  CudaBackend backend_;
  std::vector<test::Matrix<T>> a_;
  std::vector<Eigen::VectorXd> values_;
  std::vector<std::unique_ptr<CudaMatrix<T>>> held_, vectors_;
  std::vector<EigenProblem<T>> problems_;
};

const std::vector<Index> mixed = {40, 7, 40, 1, 12, 40, 7, 1, 64};

}  // namespace

TEST_CASE_TEMPLATE("eigenproblems: of mixed sizes at once, as of each alone, and none", T, float, double) {
  const CudaBackend backend;
  const Problems<T> problems(mixed);
  problems.check(backend.eigenvectors(problems.all()));
  const Problems<T> again(mixed);
  std::vector<Eigen::VectorXd> alone;
  for (const auto& problem : again.all()) alone.push_back(backend.eigenvectors(std::span(&problem, 1)).front());
  again.check(alone);
  CHECK(backend.eigenvectors(std::span<const EigenProblem<T>>()).empty());
  const EigenProblem<T> empty{};
  const auto nothing = backend.eigenvectors(std::span(&empty, 1));
  REQUIRE(nothing.size() == 1);
  CHECK(nothing[0].size() == 0);
}

#ifndef OGPSA_ON_A_GPU
TEST_CASE_TEMPLATE("eigenproblems: those for which cuSOLVER does not converge are solved on the host", T, float,
                   double) {
  for (const Index fails : {0, 1, 2}) {  // of each batch
    CAPTURE(fails);
    const Problems<T> problems(mixed);
    test::Device::instance().eigenvalues_fail = fails;
    const auto found = CudaBackend().eigenvectors(problems.all());
    test::Device::instance().eigenvalues_fail = -1;
    problems.check(found);
  }
}

TEST_CASE("eigenproblems: small ones of one size go together, as many as fit the memory of a batch") {
  constexpr Index n = 20;
  const std::size_t one = (n * n + n + 2 * n * n + 6 * n + 1) * sizeof(double);  // with the stand-in's workspace
  const bool together = detail::cuda::kSolvedTogether >= n;
  for (const std::size_t fit : {0, 1, 3, 7, 8, 100}) {
    CAPTURE(fit);
    const CudaBackend backend({.batch_bytes = fit * one + one / 2});
    const Problems<double> problems(std::vector<Index>(8, n), backend);
    const test::CountedCalls calls;
    problems.check(backend.eigenvectors(problems.all()));
    const auto size = static_cast<Index>(std::clamp<std::size_t>(fit, 1, 8));
    const Index alone = together && size > 1 ? (8 % size == 1 ? 1 : 0) : 8;
    CHECK(calls.of("cusolverDnXsyevd") == alone);
    CHECK(calls.of("cusolverDnXsyevBatched") == (alone == 8 ? 0 : 8 / size + (8 % size > 1 ? 1 : 0)));
  }
}

TEST_CASE("eigenproblems: large ones go one after the other") {
  const Problems<double> problems(mixed);
  const test::CountedCalls calls;
  problems.check(detail::cuda::eigenvectors(detail::cuda::Session(detail::cuda::DefaultContexts::current()),
                                            problems.all(), std::min<Index>(detail::cuda::kSolvedTogether, 12)));
  if (detail::cuda::kSolvedTogether < 12) return;
  CHECK(calls.of("cusolverDnXsyevBatched") == 2);  // of 1 and 7
  CHECK(calls.of("cusolverDnXsyevd") == 5);        // of 12, alone, and above
}
#endif

}  // namespace test_eigenproblems
