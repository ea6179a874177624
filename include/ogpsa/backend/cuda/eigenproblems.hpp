#pragma once

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <map>
#include <span>
#include <vector>

#include "ogpsa/backend.hpp"
#include "ogpsa/backend/cuda/launch.hpp"

/// \file
/// Eigenvalues and leading eigenvectors of many symmetric matrices by cuSOLVER, in double. Small ones of one size go
/// together, so that the device has enough to do, and the host waits once for all of them.

namespace ogpsa::detail::cuda {

/// Sizes up to which matrices go together (where cuSOLVER can: since 11.7.1, CUDA 12.6.2). What is gained falls with
/// the size: others report 64 matrices of 128 to be 30 times as fast as one after the other, and of 512 4 times
/// (double, on an RTX 4080). Beyond, one fills the device. Not measured by us.
inline constexpr Index kSolvedTogether = CUSOLVER_VERSION >= 11701 ? 1024 : 0;

/// The parameters of cuSOLVER's 64-bit interface.
class SolverParameters {
 public:
  SolverParameters() { check(cusolverDnCreateParams(&parameters_), "cusolverDnCreateParams"); }
  ~SolverParameters() { cusolverDnDestroyParams(parameters_); }
  SolverParameters(const SolverParameters&) = delete;
  SolverParameters& operator=(const SolverParameters&) = delete;
  operator cusolverDnParams_t() const { return parameters_; }

 private:
  cusolverDnParams_t parameters_ = nullptr;
};

/// `count` symmetric matrices (n x n, one after the other, of which the lower triangles are read) in device memory, and
/// where their eigenvalues go.
struct SymmetricBatch {
  double* matrices;
  double* values;
  Index n, count;
};

/// The cuSOLVER handle of a context, on its stream; a handle of the user is put back as it was.
class SolverSession {
 public:
  explicit SolverSession(const Session& session) : session_(session), handle_(session->cusolver()) {
    check(cusolverDnGetStream(handle_, &before_), "cusolverDnGetStream");
    check(cusolverDnSetStream(handle_, session->stream()), "cusolverDnSetStream");
  }
  ~SolverSession() {
    cudaStreamSynchronize(session_->stream());  // after a failure host_memory_ may still be in use
    cusolverDnSetStream(handle_, before_);
  }
  SolverSession(const SolverSession&) = delete;
  SolverSession& operator=(const SolverSession&) = delete;

  /// Bytes of workspace. A batch of one is solved by cusolverDnXsyevd.
  struct Workspace {
    std::size_t device = 0, host = 0;
  };
  Workspace workspace(const SymmetricBatch& batch, [[maybe_unused]] bool together) const {
    Workspace bytes;
#if CUSOLVER_VERSION >= 11701
    if (together) {
      check(cusolverDnXsyevBatched_bufferSize(handle_, parameters_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER,
                                              batch.n, CUDA_R_64F, batch.matrices, batch.n, CUDA_R_64F, batch.values,
                                              CUDA_R_64F, &bytes.device, &bytes.host, batch.count),
            "cusolverDnXsyevBatched_bufferSize", {{"n", batch.n}, {"batch", batch.count}});
      return bytes;
    }
#endif
    check(cusolverDnXsyevd_bufferSize(handle_, parameters_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, batch.n,
                                      CUDA_R_64F, batch.matrices, batch.n, CUDA_R_64F, batch.values, CUDA_R_64F,
                                      &bytes.device, &bytes.host),
          "cusolverDnXsyevd_bufferSize", {{"n", batch.n}});
    return bytes;
  }

  /// Replaces each matrix by its eigenvectors, eigenvalues ascending.
  /// \returns what cuSOLVER said of each: 0 when it converged
  std::vector<int> solve(const SymmetricBatch& batch) {
    const bool together = batch.count > 1;
    const Workspace bytes = workspace(batch, together);
    auto* memory = session_->scratch<unsigned char>(kSolver, static_cast<Index>(bytes.device));
    host_memory_.resize(bytes.host);
    int* info = session_->scratch<int>(kInfo, batch.count);
    const Sizes sizes = {{"n", batch.n}, {"batch", batch.count}, {"workspace", static_cast<Index>(bytes.device)}};
#if CUSOLVER_VERSION >= 11701
    if (together) {
      // Version 11.7.1 was seen to give wrong vectors where the workspace is not zero; the version that we run with may
      // be older than the one that we were compiled with.
      check(cudaMemsetAsync(memory, 0, bytes.device, session_->stream()), "cudaMemsetAsync", sizes);
      check(cusolverDnXsyevBatched(handle_, parameters_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, batch.n,
                                   CUDA_R_64F, batch.matrices, batch.n, CUDA_R_64F, batch.values, CUDA_R_64F, memory,
                                   bytes.device, host_memory_.data(), bytes.host, info, batch.count),
            "cusolverDnXsyevBatched", sizes);
      return session_->fetch(info, batch.count);  // host_memory_ is in use until then
    }
#endif
    check(cusolverDnXsyevd(handle_, parameters_, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, batch.n, CUDA_R_64F,
                           batch.matrices, batch.n, CUDA_R_64F, batch.values, CUDA_R_64F, memory, bytes.device,
                           host_memory_.data(), bytes.host, info),
          "cusolverDnXsyevd", sizes);
    return session_->fetch(info, 1);
  }

 private:
  const Session& session_;
  cusolverDnHandle_t handle_;
  SolverParameters parameters_;
  cudaStream_t before_ = nullptr;
  std::vector<unsigned char> host_memory_;
};

/// How many of `count` matrices of n x n go together, so that they fit the memory of a batch with their workspace.
inline Index solved_together(const Session& session, const SolverSession& solver, Index n, Index count,
                             Index largest_together) {
  if (n > largest_together || count == 1) return 1;
  const SymmetricBatch one{session->scratch<double>(kProduct, n * n), session->scratch<double>(kResults, n), n, 1};
  const std::size_t bytes = static_cast<std::size_t>(n * n + n) * sizeof(double) + solver.workspace(one, true).device;
  return std::clamp<Index>(static_cast<Index>(session->batch_bytes() / bytes), 1, count);
}

/// Clustered or repeated eigenvalues may stop a divide and conquer; Eigen's QR iteration takes them all.
/// \param to  the matrix, which is replaced by its eigenvectors \returns eigenvalues, ascending
inline Eigen::VectorXd solve_on_host(const Session& session, MatrixView<double> to) {
  const Index n = to.rows;
  const auto host = session->fetch(to.data, n * n);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(Eigen::Map<const Eigen::MatrixXd>(host.data(), n, n));
  if (solver.info() != Eigen::Success) {
    throw NumericalError("ogpsa: the eigenvalues of a symmetric matrix of " + size_text(n, n) +
                         " did not converge; check the reference data for extreme values");
  }
  session->copy_to_device(solver.eigenvectors().data(), to.data, static_cast<std::size_t>(n * n) * sizeof(double));
  return solver.eigenvalues();
}

/// Solves problems of one size, `some` of all, in one call of cuSOLVER.
template <class T>
void solve_batch(const Session& session, SolverSession& solver, std::span<const EigenProblem<T>> problems,
                 std::span<const std::size_t> some, std::vector<Eigen::VectorXd>& values) {
  const Index n = problems[some.front()].symmetric.rows, count = static_cast<Index>(some.size());
  const SymmetricBatch batch{session->scratch<double>(kProduct, count * n * n),
                             session->scratch<double>(kResults, count * n), n, count};
  const auto matrix = [&](std::size_t i) {
    return MatrixView<double>(batch.matrices + static_cast<Index>(i) * n * n, n, n);
  };
  const auto load = [&](std::size_t i) {
    copy(session, strided(problems[some[i]].symmetric), strided(matrix(i)), n, n);
  };
  for (std::size_t i = 0; i < some.size(); ++i) load(i);
  const auto info = solver.solve(batch);
  const auto ascending = session->fetch(batch.values, count * n);
  for (std::size_t i = 0; i < some.size(); ++i) {
    values[some[i]] = Eigen::Map<const Eigen::VectorXd>(ascending.data() + static_cast<Index>(i) * n, n).reverse();
    if (info[i] != 0) {
      load(i);
      values[some[i]] = solve_on_host(session, matrix(i)).reverse();
    }
    const MatrixView<T> vectors = problems[some[i]].vectors;
    // The last column first.
    copy(session, {matrix(i).data + (n - 1) * n, DType::float64, 1, -n}, strided(vectors), n, vectors.cols);
  }
}

/// All eigenvalues of each problem, descending; the leading eigenvectors are written to it.
/// \param largest_together  for tests
template <class T>
std::vector<Eigen::VectorXd> eigenvectors(const Session& session, std::span<const EigenProblem<T>> problems,
                                          Index largest_together = kSolvedTogether) {
  std::vector<Eigen::VectorXd> values(problems.size());
  std::map<Index, std::vector<std::size_t>> by_size;
  for (std::size_t p = 0; p < problems.size(); ++p) {
    if (problems[p].symmetric.rows > 0) by_size[problems[p].symmetric.rows].push_back(p);
  }
  if (by_size.empty()) return values;
  SolverSession solver(session);
  for (const auto& [n, group] : by_size) {
    const auto count = static_cast<Index>(group.size());
    const auto together = static_cast<std::size_t>(solved_together(session, solver, n, count, largest_together));
    for (std::size_t at = 0; at < group.size(); at += together) {
      solve_batch(session, solver, problems, std::span(group).subspan(at, std::min(together, group.size() - at)),
                  values);
    }
  }
  return values;
}

}  // namespace ogpsa::detail::cuda
