#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <memory>

#include "exact.hpp"
#include "random.hpp"
#include "support.hpp"

using namespace ogpsa;
using test::DeviceTensor;
using test::on_backend;
using test::Random;
using test::Real;

namespace test_linear {
namespace {

/// Vectors and matrices of every kind, on the device, with what they are and what should become of them.
template <class T, class S>
struct Batch {
  std::vector<ProjectionPiece<T>> pieces;
  std::vector<LinearChange> changes;
  std::vector<std::unique_ptr<DeviceTensor<S>>> tensors;
  std::vector<std::unique_ptr<CudaMatrix<T>>> bases;
  std::vector<test::MatrixL> x, left, right;  // a side without a basis is empty

  void add(Random& random, Index fast, Index slow, Index kl, Index kr) {
    std::vector<S> values;
    for (Index i = 0; i < fast * slow; ++i) values.push_back(static_cast<S>(random.normal()));
    tensors.push_back(std::make_unique<DeviceTensor<S>>(values));
    x.emplace_back(fast, slow);
    for (Index i = 0; i < x.back().size(); ++i) {
      x.back()(i) = static_cast<Real>(static_cast<double>(values[static_cast<std::size_t>(i)]));
    }
    const auto basis = [&](Index n, Index k, std::vector<test::MatrixL>& exact) -> MatrixView<const T> {
      exact.emplace_back(n, 0);
      if (k == 0) return {};
      const test::Matrix<T> q = random.orthonormal(n, k).template cast<T>();
      exact.back() = test::exact(q);
      bases.push_back(std::make_unique<CudaMatrix<T>>(on_backend<T>(q)));
      return std::as_const(*bases.back()).view();
    };
    ProjectionPiece<T> piece{tensors.back()->view(), fast, slow, {}, {}};
    piece.left = basis(fast, kl, left);
    piece.right = basis(slow, kr, right);
    const bool side = slow > 1 && (kl == 0 || kr == 0);
    const Index rows = side ? kl + kr : kl, cols = side || slow == 1 ? 1 : kr;
    const Eigen::MatrixXd weights = (random.gaussian(rows, cols).array().abs().min(1.0)).matrix();
    changes.push_back({random.integer(0, 1) == 0 ? 1.0 : 0.5, 0.7, weights});
    pieces.push_back(piece);
  }

  /// left^T X right, or the part inside one side.
  test::MatrixL inner(std::size_t p) const {
    test::MatrixL c = x[p];
    if (left[p].cols() > 0) c = left[p].transpose() * c;
    if (right[p].cols() > 0) c = c * right[p];
    return c;
  }
  test::MatrixL expected(std::size_t p) const {
    const auto& change = changes[p];
    if (left[p].cols() + right[p].cols() == 0) return Real(change.keep) * x[p];
    const test::MatrixL weights = Real(change.factor) * change.weights.cast<Real>();
    test::MatrixL c = inner(p);
    const bool side = x[p].cols() > 1 && (left[p].cols() == 0 || right[p].cols() == 0);
    if (!side) {
      c = c.cwiseProduct(weights);
    } else if (left[p].cols() > 0) {
      c = weights.col(0).asDiagonal() * c;
    } else {
      c = c * weights.col(0).asDiagonal();
    }
    if (left[p].cols() > 0) c = left[p] * c;
    if (right[p].cols() > 0) c = c * right[p].transpose();
    return Real(change.keep) * x[p] - c;
  }
};

/// Projects a batch and compares with long double; `stored` is the rounding of the storage type.
template <class T, class S>
void check(const CudaBackend& backend, const Batch<T, S>& batch, double stored) {
  std::vector<PieceCoefficients> measured;
  std::vector<PieceNorms> norms;
  backend.project(std::span<const ProjectionPiece<T>>(batch.pieces), std::span<const LinearChange>(batch.changes),
                  measured, norms);
  REQUIRE(measured.size() == batch.pieces.size());
  for (std::size_t p = 0; p < batch.pieces.size(); ++p) {
    CAPTURE(p);
    const auto values = batch.tensors[p]->values();
    const test::MatrixL expected = batch.expected(p), inner = batch.inner(p);
    test::MatrixL found = expected;
    for (Index i = 0; i < found.size(); ++i) {
      found(i) = static_cast<Real>(static_cast<double>(values[static_cast<std::size_t>(i)]));
    }
    const Real norm = batch.x[p].norm();
    CHECK((found - expected).norm() <= (32 * test::roundoff<T> + stored) * norm);
    CHECK(norms[p].before == doctest::Approx(static_cast<double>(norm * norm)).epsilon(1e-5));
    CHECK(norms[p].after == doctest::Approx(static_cast<double>(expected.squaredNorm())).epsilon(stored / 4 + 1e-5));
    if (batch.left[p].cols() + batch.right[p].cols() == 0) continue;
    CHECK(norms[p].inside == doctest::Approx(static_cast<double>(inner.squaredNorm())).epsilon(1e-4));
    if (batch.pieces[p].has_shared_coefficients()) {
      CHECK((test::exact(measured[p].inner) - inner).norm() <= 32 * test::roundoff<T> * norm);
    }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("linear projection: every kind of piece at once, against long double", S, float, double, bfloat16,
                   float16) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  const CudaBackend backend;
  const double stored = std::is_same_v<S, bfloat16> ? 0x1p-8 : std::is_same_v<S, float16> ? 0x1p-10 : 0.0;
  for (int round = 0; round < 6; ++round) {
    Random random(static_cast<std::uint64_t>(round));
    CAPTURE(round);
    Batch<T, S> batch;
    for (int i = 0; i < 4; ++i) {
      const Index fast = random.integer(12, 40), slow = random.integer(12, 400);
      batch.add(random, random.integer(12, 40000), 1, random.integer(1, 12), 0);
      batch.add(random, fast, slow, random.integer(1, 9), 0);
      batch.add(random, fast, slow, 0, random.integer(1, 9));
      batch.add(random, fast, slow, random.integer(1, 9), random.integer(1, 9));
    }
    batch.add(random, 50, 1, 0, 0);
    batch.changes.back().keep = 1;
    check(backend, batch, stored);
  }
}

TEST_CASE_TEMPLATE("linear projection: panels of long matrices, and batches that fit little memory", S, float,
                   bfloat16) {
  const CudaBackend backend({.batch_bytes = std::size_t{1} << 20});
  Random random(5);
  Batch<float, S> batch;
  for (int i = 0; i < 3; ++i) {  // panels of 16 columns
    batch.add(random, 270000, 18, i == 0 ? 1 : 0, i == 0 ? 0 : 2);
    batch.add(random, 300, 70, 20, 0);  // a matrix or two at a time
    batch.add(random, 300, 70, 0, 20);
    batch.add(random, 300, 70, 40, 20);
  }
  batch.add(random, 270000, 18, 2, 3);
  batch.add(random, 18, 270000, 0, 2);
  check(backend, batch, std::is_same_v<S, bfloat16> ? 0x1p-8 : 0.0);
}

TEST_CASE_TEMPLATE("linear projection: one launch for vectors that fit the cache, whoever is first", S, float, double,
                   bfloat16) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  const CudaBackend backend;
  std::vector<std::vector<S>> first;
  std::vector<double> first_norms;
  for (int round = 0; round < 12; ++round) {  // blocks run side by side, in another order each time
    Random random(3);
    Batch<T, S> batch;
    for (int i = 0; i < 60; ++i) batch.add(random, i == 7 ? 0 : random.integer(4, 15000), 1, i % 4, 0);
    if (round == 0) {
      check(backend, batch, std::is_same_v<S, bfloat16> ? 0x1p-8 : 0.0);
    } else {
      std::vector<PieceCoefficients> measured;
      std::vector<PieceNorms> norms;
      backend.project(std::span<const ProjectionPiece<T>>(batch.pieces), std::span<const LinearChange>(batch.changes),
                      measured, norms);
      std::vector<double> numbers;
      for (const auto& n : norms) numbers.insert(numbers.end(), {n.before, n.after, n.inside});
      if (round == 1) first_norms = numbers;
      CHECK(numbers == first_norms);
    }
    for (std::size_t p = 0; p < batch.tensors.size(); ++p) {
      const auto values = batch.tensors[p]->values();
      if (round == 0) first.push_back(values);
      CHECK(std::memcmp(values.data(), first[p].data(), values.size() * sizeof(S)) == 0);
    }
  }
}

TEST_CASE_TEMPLATE("linear projection: where a tensor lies in memory changes no bit", S, float, double, bfloat16,
                   float16) {
  using T = std::conditional_t<std::is_same_v<S, double>, double, float>;
  const CudaBackend backend;
  for (const Index size : {Index{40000}, Index{40003}}) {  // columns of the second basis are not on 16 bytes either
    Random random(static_cast<std::uint64_t>(size));
    const CudaMatrix<T> basis = on_backend<T>(test::Matrix<T>(random.orthonormal(size, 3).template cast<T>()));
    std::vector<S> values, start;
    for (Index i = 0; i < size; ++i) values.push_back(static_cast<S>(random.normal()));
    for (Index i = 0; i < size; ++i) start.push_back(static_cast<S>(random.normal()));
    const auto project = [&](std::ptrdiff_t shift, bool step) {
      const auto put = [&](std::vector<S> v) {
        v.insert(v.begin(), static_cast<std::size_t>(shift), S{});
        return std::make_unique<DeviceTensor<S>>(v);
      };
      const auto tensor = put(values), origin = put(start);
      const auto view = [&](const auto& t) {
        return TensorView(static_cast<S*>(t->view().data) + shift, dtype_of<S>(), 1, size);
      };
      ProjectionPiece<T> piece{view(tensor), size, 1, basis.view(), {}};
      if (step) piece.origin = view(origin);
      const LinearChange change{1, 1};
      std::vector<PieceCoefficients> measured;
      std::vector<PieceNorms> norms;
      backend.project(std::span<const ProjectionPiece<T>>(&piece, 1), std::span<const LinearChange>(&change, 1),
                      measured, norms);
      const auto found = tensor->values();
      CHECK(found[static_cast<std::size_t>(shift)] != values[0]);
      return std::pair(std::vector<S>(found.begin() + shift, found.end()),
                       std::array{norms[0].before, norms[0].after, norms[0].inside});
    };
    for (const bool step : {false, true}) {
      const auto expected = project(0, step);
      for (const std::ptrdiff_t shift : {1, 5}) {
        const auto found = project(shift, step);
        CHECK(std::memcmp(found.first.data(), expected.first.data(), found.first.size() * sizeof(S)) == 0);
        CHECK(found.second == expected.second);
      }
    }
  }
}

#ifndef OGPSA_ON_A_GPU
TEST_CASE_TEMPLATE("linear projection: the launches depend on the shapes, not on the layers; the host waits once", S,
                   float, bfloat16) {
  const CudaBackend backend;
  const auto count = [&](int layers) {
    Random random(1);
    Batch<float, S> batch;
    for (int i = 0; i < layers; ++i) {
      batch.add(random, 3000, 1, 2, 0);
      batch.add(random, 300, 40, 7, 0);
      batch.add(random, 40, 300, 0, 7);
      batch.add(random, 300, 40, 7, 5);
    }
    for (auto& change : batch.changes) change.keep = 1;
    std::vector<PieceCoefficients> measured;
    std::vector<PieceNorms> norms;
    const auto project = [&] {
      backend.project(std::span<const ProjectionPiece<float>>(batch.pieces),
                      std::span<const LinearChange>(batch.changes), measured, norms);
    };
    project();
    const test::CountedCalls calls;
    project();
    CHECK(calls.of("cudaMallocAsync") == 0);
    CHECK(calls.of("cudaStreamSynchronize") == 1);
    CHECK(calls.of("cudaMemcpyAsync") == 1);  // the results; no table is sent again
    CHECK(calls.of("cublasGemmBatchedEx_64") > 0);
    return calls.of("launch_kernel") + calls.of("cublasGemmBatchedEx_64");
  };
  const Index few = count(2);
  CHECK(few < 40);
  CHECK(count(4) == few);
  CHECK(count(30) == few);
}
#endif

}  // namespace test_linear
