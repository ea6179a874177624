#include <Eigen/Dense>
#include <cstring>
#include <memory>

#include "standin.hpp"

/// \file
/// cuBLAS and cuSOLVER, by Eigen.

using standin::Index;
using standin::wrong;

namespace {

struct Blas {
  cudaStream_t stream = nullptr;
  cublasMath_t math = CUBLAS_DEFAULT_MATH;
  cublasPointerMode_t pointers = CUBLAS_POINTER_MODE_HOST;
};
struct Solver {
  cudaStream_t stream = nullptr;
};
struct Parameters {
  int unused = 0;
};

Blas& blas(const char* call, cublasHandle_t handle) {
  standin::Device::instance().require_handle(call, "cuBLAS handle", handle);
  return *reinterpret_cast<Blas*>(handle);
}
Solver& solver(const char* call, cusolverDnHandle_t handle) {
  standin::Device::instance().require_handle(call, "cuSOLVER handle", handle);
  return *reinterpret_cast<Solver*>(handle);
}

/// A matrix or a batch of them, as a library is told about it.
struct Operand {
  const void* data;
  Index rows, cols, stride, batch_stride, batch;
  std::size_t size;  // of an element

  std::size_t bytes() const {
    if (rows == 0 || cols == 0) return 0;
    const Index last = (batch - 1) * batch_stride + (cols - 1) * stride + rows;
    return static_cast<std::size_t>(last) * size;
  }
  void check(const char* call, const char* name) const {
    if (rows < 0 || cols < 0) wrong(call, std::string(name) + " has a negative size");
    if (stride < std::max<Index>(1, rows)) {
      wrong(call, std::string(name) + ": leading dimension " + std::to_string(stride) + " for " + std::to_string(rows) +
                      " rows");
    }
    standin::Device::instance().require(call, name, data, bytes());
    if (reinterpret_cast<std::uintptr_t>(data) % size != 0) wrong(call, std::string(name) + " is not aligned");
  }
  bool overlaps(const Operand& other) const {
    const auto* a = static_cast<const char*>(data);
    const auto* b = static_cast<const char*>(other.data);
    return a < b + other.bytes() && b < a + bytes();
  }
  template <class T>
  auto matrix(Index i) const {
    using M = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
    auto* first = const_cast<T*>(static_cast<const T*>(data)) + i * batch_stride;
    return Eigen::Map<M, 0, Eigen::OuterStride<>>(first, rows, cols, Eigen::OuterStride<>(stride));
  }
};

template <class T>
void multiply(bool ta, bool tb, T alpha, const Operand& a, const Operand& b, T beta, const Operand& c) {
  using M = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic>;
  for (Index i = 0; i < c.batch; ++i) {
    const auto left = a.matrix<T>(i), right = b.matrix<T>(i);
    auto sum = c.matrix<T>(i);
    const M product = ta ? (tb ? M(left.transpose() * right.transpose()) : M(left.transpose() * right))
                         : (tb ? M(left * right.transpose()) : M(left * right));
    if (beta == T(0)) {
      sum = alpha * product;  // what was there is not read
    } else {
      sum = alpha * product + beta * sum;
    }
  }
}

template <class T>
cublasStatus_t syrk(const char* call, cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t op, Index n,
                    Index k, const T* alpha, const T* a, Index lda, const T* beta, T* c, Index ldc) {
  auto& device = standin::Device::instance();
  auto& self = blas(call, handle);
  if (uplo != CUBLAS_FILL_MODE_LOWER) wrong(call, "only the lower triangle is ours");
  const bool transposed = op == CUBLAS_OP_T;
  const Operand left{a, transposed ? k : n, transposed ? n : k, lda, 0, 1, sizeof(T)},
      sum{c, n, n, ldc, 0, 1, sizeof(T)};
  left.check(call, "A");
  sum.check(call, "C");
  device.require_host(call, "alpha", alpha);
  device.require_host(call, "beta", beta);
  if (left.overlaps(sum)) wrong(call, "C overlaps A");
  device.enqueue(device.stream(call, self.stream), [=, factor = *alpha, keep = *beta] {
    auto target = sum.matrix<T>(0);
    if (keep != T(1)) wrong(call, "beta is 1 in our calls");
    if (transposed) {
      target.template selfadjointView<Eigen::Lower>().rankUpdate(left.matrix<T>(0).transpose(), factor);
    } else {
      target.template selfadjointView<Eigen::Lower>().rankUpdate(left.matrix<T>(0), factor);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

std::size_t solver_bytes(Index n) { return static_cast<std::size_t>(2 * n * n + 6 * n + 1) * sizeof(double); }

/// What a matrix is replaced by. \returns info
int solve_symmetric(const Operand& matrices, const Operand& values, Index i, bool fail) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solved(matrices.matrix<double>(i));
  matrices.matrix<double>(i) = solved.eigenvectors();
  if (fail) matrices.matrix<double>(i).setZero();
  values.matrix<double>(i) = solved.eigenvalues();
  return fail ? static_cast<int>(matrices.rows) : solved.info() == Eigen::Success ? 0 : 1;
}

}  // namespace

extern "C" {

cublasStatus_t cublasCreate_v2(cublasHandle_t* handle) {
  STANDIN_CALL(CUBLAS_STATUS_ALLOC_FAILED);
  standin::hand_out("cuBLAS handle", new Blas, handle);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasDestroy_v2(cublasHandle_t handle) {
  standin::take_back<Blas>(__func__, "cuBLAS handle", handle);
  return CUBLAS_STATUS_SUCCESS;
}
const char* cublasGetStatusName(cublasStatus_t) { return "CUBLAS_STATUS_OF_THE_STAND_IN"; }

#define STANDIN_PROPERTY(Name, Type, field)                            \
  cublasStatus_t cublasGet##Name(cublasHandle_t handle, Type* value) { \
    STANDIN_CALL(CUBLAS_STATUS_NOT_INITIALIZED);                       \
    *value = blas(__func__, handle).field;                             \
    return CUBLAS_STATUS_SUCCESS;                                      \
  }                                                                    \
  cublasStatus_t cublasSet##Name(cublasHandle_t handle, Type value) {  \
    STANDIN_CALL(CUBLAS_STATUS_NOT_INITIALIZED);                       \
    blas(__func__, handle).field = value;                              \
    return CUBLAS_STATUS_SUCCESS;                                      \
  }
STANDIN_PROPERTY(Stream_v2, cudaStream_t, stream)
STANDIN_PROPERTY(MathMode, cublasMath_t, math)
STANDIN_PROPERTY(PointerMode_v2, cublasPointerMode_t, pointers)

cublasStatus_t cublasGemmStridedBatchedEx_64(cublasHandle_t handle, cublasOperation_t opa, cublasOperation_t opb,
                                             int64_t m, int64_t n, int64_t k, const void* alpha, const void* a,
                                             cudaDataType ta, int64_t lda, long long sa, const void* b, cudaDataType tb,
                                             int64_t ldb, long long sb, const void* beta, void* c, cudaDataType tc,
                                             int64_t ldc, long long sc, int64_t batch, cublasComputeType_t compute,
                                             cublasGemmAlgo_t algorithm) {
  STANDIN_CALL(CUBLAS_STATUS_EXECUTION_FAILED);
  auto& self = blas(__func__, handle);
  STANDIN_REQUIRE(self.pointers == CUBLAS_POINTER_MODE_HOST);
  STANDIN_REQUIRE(ta == tb && tb == tc && (ta == CUDA_R_32F || ta == CUDA_R_64F));
  STANDIN_REQUIRE(compute == (ta == CUDA_R_32F ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F));
  STANDIN_REQUIRE(m >= 0 && n >= 0 && k >= 0 && batch >= 0 && algorithm == CUBLAS_GEMM_DEFAULT);
  STANDIN_REQUIRE((opa == CUBLAS_OP_N || opa == CUBLAS_OP_T) && (opb == CUBLAS_OP_N || opb == CUBLAS_OP_T));
  device.require_host(__func__, "alpha", alpha);
  device.require_host(__func__, "beta", beta);
  if (m == 0 || n == 0 || batch == 0) return CUBLAS_STATUS_SUCCESS;
  const bool at = opa == CUBLAS_OP_T, bt = opb == CUBLAS_OP_T, single = ta == CUDA_R_32F;
  const std::size_t size = single ? 4 : 8;
  const Operand left{a, at ? k : m, at ? m : k, lda, sa, batch, size};
  const Operand right{b, bt ? n : k, bt ? k : n, ldb, sb, batch, size};
  const Operand sum{c, m, n, ldc, sc, batch, size};
  left.check(__func__, "A");
  right.check(__func__, "B");
  sum.check(__func__, "C");
  if (sum.overlaps(left) || sum.overlaps(right)) wrong(__func__, "C overlaps A or B");
  STANDIN_REQUIRE(batch == 1 || sc >= (n - 1) * ldc + m);
  auto& queue = device.stream(__func__, self.stream);
  const double al =
      single ? static_cast<double>(*static_cast<const float*>(alpha)) : *static_cast<const double*>(alpha);
  const double be = single ? static_cast<double>(*static_cast<const float*>(beta)) : *static_cast<const double*>(beta);
  device.enqueue(queue, [=] {
    if (single) multiply<float>(at, bt, static_cast<float>(al), left, right, static_cast<float>(be), sum);
    if (!single) multiply<double>(at, bt, al, left, right, be, sum);
  });
  return CUBLAS_STATUS_SUCCESS;
}

/// The arrays of pointers are read when the work is done, as on a device.
cublasStatus_t cublasGemmBatchedEx_64(cublasHandle_t handle, cublasOperation_t opa, cublasOperation_t opb, int64_t m,
                                      int64_t n, int64_t k, const void* alpha, const void* const a[], cudaDataType ta,
                                      int64_t lda, const void* const b[], cudaDataType tb, int64_t ldb,
                                      const void* beta, void* const c[], cudaDataType tc, int64_t ldc, int64_t batch,
                                      cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  STANDIN_CALL(CUBLAS_STATUS_EXECUTION_FAILED);
  auto& self = blas(__func__, handle);
  STANDIN_REQUIRE(self.pointers == CUBLAS_POINTER_MODE_HOST);
  STANDIN_REQUIRE(ta == tb && tb == tc && (ta == CUDA_R_32F || ta == CUDA_R_64F));
  STANDIN_REQUIRE(compute == (ta == CUDA_R_32F ? CUBLAS_COMPUTE_32F : CUBLAS_COMPUTE_64F));
  STANDIN_REQUIRE(m > 0 && n > 0 && k > 0 && batch > 0 && algorithm == CUBLAS_GEMM_DEFAULT);
  STANDIN_REQUIRE((opa == CUBLAS_OP_N || opa == CUBLAS_OP_T) && (opb == CUBLAS_OP_N || opb == CUBLAS_OP_T));
  device.require_host(__func__, "alpha", alpha);
  device.require_host(__func__, "beta", beta);
  const std::size_t table = static_cast<std::size_t>(batch) * sizeof(void*);
  device.require(__func__, "the pointers to A", a, table);
  device.require(__func__, "the pointers to B", b, table);
  device.require(__func__, "the pointers to C", c, table);
  const bool at = opa == CUBLAS_OP_T, bt = opb == CUBLAS_OP_T, single = ta == CUDA_R_32F;
  const bool fast = self.math == CUBLAS_TF32_TENSOR_OP_MATH;
  const std::size_t size = single ? 4 : 8;
  const double al =
      single ? static_cast<double>(*static_cast<const float*>(alpha)) : *static_cast<const double*>(alpha);
  const double be = single ? static_cast<double>(*static_cast<const float*>(beta)) : *static_cast<const double*>(beta);
  const char* call = __func__;
  device.enqueue(device.stream(call, self.stream), [=] {
    for (int64_t i = 0; i < batch; ++i) {
      const Operand left{a[i], at ? k : m, at ? m : k, lda, 0, 1, size};
      const Operand right{b[i], bt ? n : k, bt ? k : n, ldb, 0, 1, size};
      const Operand sum{c[i], m, n, ldc, 0, 1, size};
      left.check(call, "A");
      right.check(call, "B");
      sum.check(call, "C");
      for (const auto* p : {a[i], b[i], static_cast<const void*>(c[i])}) {
        if (fast && single && reinterpret_cast<std::uintptr_t>(p) % 16 != 0) wrong(call, "not aligned to 16 bytes");
      }
      if (sum.overlaps(left) || sum.overlaps(right)) wrong(call, "C overlaps A or B");
      if (single) multiply<float>(at, bt, static_cast<float>(al), left, right, static_cast<float>(be), sum);
      if (!single) multiply<double>(at, bt, al, left, right, be, sum);
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSsyrk_v2_64(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t op, int64_t n,
                                 int64_t k, const float* alpha, const float* a, int64_t lda, const float* beta,
                                 float* c, int64_t ldc) {
  STANDIN_CALL(CUBLAS_STATUS_EXECUTION_FAILED);
  return syrk(__func__, handle, uplo, op, n, k, alpha, a, lda, beta, c, ldc);
}
cublasStatus_t cublasDsyrk_v2_64(cublasHandle_t handle, cublasFillMode_t uplo, cublasOperation_t op, int64_t n,
                                 int64_t k, const double* alpha, const double* a, int64_t lda, const double* beta,
                                 double* c, int64_t ldc) {
  STANDIN_CALL(CUBLAS_STATUS_EXECUTION_FAILED);
  return syrk(__func__, handle, uplo, op, n, k, alpha, a, lda, beta, c, ldc);
}

cusolverStatus_t cusolverDnCreate(cusolverDnHandle_t* handle) {
  STANDIN_CALL(CUSOLVER_STATUS_ALLOC_FAILED);
  standin::hand_out("cuSOLVER handle", new Solver, handle);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroy(cusolverDnHandle_t handle) {
  standin::take_back<Solver>(__func__, "cuSOLVER handle", handle);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnSetStream(cusolverDnHandle_t handle, cudaStream_t stream) {
  STANDIN_CALL(CUSOLVER_STATUS_NOT_INITIALIZED);
  solver(__func__, handle).stream = stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnGetStream(cusolverDnHandle_t handle, cudaStream_t* stream) {
  STANDIN_CALL(CUSOLVER_STATUS_NOT_INITIALIZED);
  *stream = solver(__func__, handle).stream;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnCreateParams(cusolverDnParams_t* parameters) {
  STANDIN_CALL(CUSOLVER_STATUS_ALLOC_FAILED);
  standin::hand_out("cuSOLVER parameters", new Parameters, parameters);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnDestroyParams(cusolverDnParams_t parameters) {
  standin::take_back<Parameters>(__func__, "cuSOLVER parameters", parameters);
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t parameters,
                                             cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n, cudaDataType ta,
                                             const void* a, int64_t lda, cudaDataType tw, const void* w,
                                             cudaDataType compute, std::size_t* device_bytes, std::size_t* host_bytes) {
  STANDIN_CALL(CUSOLVER_STATUS_INVALID_VALUE);
  solver(__func__, handle);
  device.require_handle(__func__, "cuSOLVER parameters", parameters);
  STANDIN_REQUIRE(mode == CUSOLVER_EIG_MODE_VECTOR && uplo == CUBLAS_FILL_MODE_LOWER && n > 0 && lda >= n);
  STANDIN_REQUIRE(ta == CUDA_R_64F && tw == CUDA_R_64F && compute == CUDA_R_64F);
  device.require(__func__, "A", a, static_cast<std::size_t>(lda * (n - 1) + n) * 8);
  device.require(__func__, "W", w, static_cast<std::size_t>(n) * 8);
  *device_bytes = solver_bytes(n);
  *host_bytes = static_cast<std::size_t>(n) * 8;
  return CUSOLVER_STATUS_SUCCESS;
}
cusolverStatus_t cusolverDnXsyevd(cusolverDnHandle_t handle, cusolverDnParams_t parameters, cusolverEigMode_t mode,
                                  cublasFillMode_t uplo, int64_t n, cudaDataType ta, void* a, int64_t lda,
                                  cudaDataType tw, void* w, cudaDataType compute, void* workspace,
                                  std::size_t device_bytes, void* host_workspace, std::size_t host_bytes, int* info) {
  STANDIN_CALL(CUSOLVER_STATUS_INTERNAL_ERROR);
  auto& self = solver(__func__, handle);
  device.require_handle(__func__, "cuSOLVER parameters", parameters);
  STANDIN_REQUIRE(mode == CUSOLVER_EIG_MODE_VECTOR && uplo == CUBLAS_FILL_MODE_LOWER && n > 0 && lda >= n);
  STANDIN_REQUIRE(ta == CUDA_R_64F && tw == CUDA_R_64F && compute == CUDA_R_64F);
  STANDIN_REQUIRE(device_bytes >= solver_bytes(n) && host_bytes >= static_cast<std::size_t>(n) * 8);
  const Operand matrix{a, n, n, lda, 0, 1, 8}, values{w, n, 1, n, 0, 1, 8};
  matrix.check(__func__, "A");
  values.check(__func__, "W");
  device.require(__func__, "the workspace", workspace, device_bytes);
  device.require_host(__func__, "the host workspace", host_workspace);
  device.require(__func__, "info", info, sizeof(int));
  device.enqueue(device.stream(__func__, self.stream),
                 [=, fail = device.eigenvalues_fail] { *info = solve_symmetric(matrix, values, 0, fail == 0); });
  return CUSOLVER_STATUS_SUCCESS;
}

#if CUSOLVER_VERSION >= 11701
cusolverStatus_t cusolverDnXsyevBatched_bufferSize(cusolverDnHandle_t handle, cusolverDnParams_t parameters,
                                                   cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n,
                                                   cudaDataType ta, const void* a, int64_t lda, cudaDataType tw,
                                                   const void* w, cudaDataType compute, std::size_t* device_bytes,
                                                   std::size_t* host_bytes, int64_t batch) {
  STANDIN_CALL(CUSOLVER_STATUS_INVALID_VALUE);
  solver(__func__, handle);
  device.require_handle(__func__, "cuSOLVER parameters", parameters);
  STANDIN_REQUIRE(mode == CUSOLVER_EIG_MODE_VECTOR && uplo == CUBLAS_FILL_MODE_LOWER && n > 0 && batch > 0);
  STANDIN_REQUIRE(ta == CUDA_R_64F && tw == CUDA_R_64F && compute == CUDA_R_64F);
  Operand{a, n, n, lda, lda * n, batch, 8}.check(__func__, "A");
  Operand{w, n, 1, n, n, batch, 8}.check(__func__, "W");
  *device_bytes = static_cast<std::size_t>(batch) * solver_bytes(n);
  *host_bytes = static_cast<std::size_t>(batch * n) * 8;
  return CUSOLVER_STATUS_SUCCESS;
}
/// The workspace has to be zero, as for version 11.7.1.
cusolverStatus_t cusolverDnXsyevBatched(cusolverDnHandle_t handle, cusolverDnParams_t parameters,
                                        cusolverEigMode_t mode, cublasFillMode_t uplo, int64_t n, cudaDataType ta,
                                        void* a, int64_t lda, cudaDataType tw, void* w, cudaDataType compute,
                                        void* workspace, std::size_t device_bytes, void* host_workspace,
                                        std::size_t host_bytes, int* info, int64_t batch) {
  STANDIN_CALL(CUSOLVER_STATUS_INTERNAL_ERROR);
  auto& self = solver(__func__, handle);
  device.require_handle(__func__, "cuSOLVER parameters", parameters);
  STANDIN_REQUIRE(mode == CUSOLVER_EIG_MODE_VECTOR && uplo == CUBLAS_FILL_MODE_LOWER && n > 0 && batch > 0);
  STANDIN_REQUIRE(ta == CUDA_R_64F && tw == CUDA_R_64F && compute == CUDA_R_64F);
  STANDIN_REQUIRE(device_bytes >= static_cast<std::size_t>(batch) * solver_bytes(n));
  STANDIN_REQUIRE(host_bytes >= static_cast<std::size_t>(batch * n) * 8);
  const Operand matrices{a, n, n, lda, lda * n, batch, 8}, values{w, n, 1, n, n, batch, 8};
  const Operand work{workspace, static_cast<Index>(device_bytes), 1, static_cast<Index>(device_bytes), 0, 1, 1};
  matrices.check(__func__, "A");
  values.check(__func__, "W");
  work.check(__func__, "the workspace");
  device.require_host(__func__, "the host workspace", host_workspace);
  device.require(__func__, "info", info, static_cast<std::size_t>(batch) * sizeof(int));
  if (matrices.overlaps(values) || work.overlaps(matrices) || work.overlaps(values)) wrong(__func__, "an overlap");
  const char* call = __func__;
  device.enqueue(device.stream(call, self.stream), [=, fail = device.eigenvalues_fail] {
    auto bytes = work.matrix<unsigned char>(0);
    if ((bytes.array() != 0).any()) wrong(call, "the workspace is not zero");
    bytes.setConstant(0xff);
    std::memset(host_workspace, 0xff, host_bytes);
    for (int64_t i = 0; i < batch; ++i) info[i] = solve_symmetric(matrices, values, i, fail == i);
  });
  return CUSOLVER_STATUS_SUCCESS;
}
#endif

}  // extern "C"
